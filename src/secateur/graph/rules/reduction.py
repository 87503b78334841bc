"""Reductions. A reduction over a labelled dimension would change with its size, so it freezes it."""

from __future__ import annotations

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
    several = node.shape is not None and len(node.shape) > 0 and not isinstance(node.shape[0], int)
    first = node.shape[0] if several else node.shape  # type: ignore[index]
    keepdim = isinstance(first, tuple) and len(first) == x.ndim
    reduced = ctx.reduce(x, dims, keepdim, f"{node.op} reduces over it")
    return [reduced] * len(node.shape) if several else reduced  # type: ignore[arg-type]


@rule("cumsum", "cumprod", "cummax", "cummin", "sort", "argsort", "topk")
def along(ctx: Context, node: Node, x: Value, *args: Any, **kwargs: Any) -> Result:
    """Freeze the dimension that the operator walks along."""
    position = 1 if node.op == "topk" else 0
    dim = kwargs.get("dim", args[position] if len(args) > position else -1)
    x = ctx.block_value(x, [dim], f"{node.op} works along it")
    shapes = node.shape if node.shape and not isinstance(node.shape[0], int) else (node.shape,)
    out = [Value(s, x.fields, x.static, x.cause) for s in shapes if isinstance(s, tuple)]  # type: ignore[arg-type]
    return out if len(out) > 1 else out[0]
