"""Reductions. A reduction over a labelled dimension would change with its size, so it freezes it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..context import Context
from ..labels import Value
from ..program import Node
from .registry import Result, rule

_REDUCTIONS = """
    mean sum amax amin max min std var var_mean std_mean logsumexp prod any all argmax argmin norm
    linalg_vector_norm nansum median
"""


@rule(*_REDUCTIONS.split())
def reduction(ctx: Context, node: Node, x: Value, *args: Any, **kwargs: Any) -> Result:
    """Freeze what is reduced over; the other dimensions pass."""
    if args and isinstance(args[0], Value):  # max(a, b) and min(a, b) compare entry by entry
        return ctx.joint(node.tensor_shape(), [x, args[0]])
    position = 1 if node.op in ("norm", "linalg_vector_norm") else 0
    dims = kwargs.get("dim", args[position] if len(args) > position else None)
    if dims is None or dims == () or isinstance(dims, bool):
        dims = tuple(range(x.ndim))
    dims = (dims,) if isinstance(dims, int) else dims
    first = node.tensor_shape() if node.several is None else node.several[0]
    keepdim = first is not None and len(first) == x.ndim
    reduced = ctx.reduce(x, dims, keepdim, f"{node.op} reduces over it")
    return reduced if node.several is None else [reduced] * len(node.several)


@rule("cumsum", "cumprod", "cummax", "cummin", "sort", "argsort", "topk")
def along(ctx: Context, node: Node, x: Value, *args: Any, **kwargs: Any) -> Result:
    """Freeze the dimension that the operator walks along."""
    position = 1 if node.op == "topk" else 0
    dim = kwargs.get("dim", args[position] if len(args) > position else -1)
    x = ctx.block_value(x, [dim], f"{node.op} works along it")
    if node.several is not None:
        return [replace(x, shape=s) for s in node.several if s is not None]
    return replace(x, shape=node.tensor_shape())
