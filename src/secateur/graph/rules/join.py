"""Joining values along a dimension."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..context import Context
from ..labels import Labels, Value, flattened, varying
from ..program import Node
from .registry import rule


@rule("cat", "concat", "concatenate")
def cat(ctx: Context, node: Node, values: Sequence[Value], dim: int = 0) -> Value:
    """Concatenate along one dimension, unify along the others."""
    shape = node.tensor_shape()
    dim %= len(shape)
    values = [ctx.norm(v) for v in values if v.ndim == len(shape) and v.shape[dim] > 0]
    across = ctx.joint(flattened(shape, dim), [_without(v, dim) for v in values])
    values = [ctx.norm(v) for v in values]
    along = [[f for f in v.fields if f.shape[dim] > 1] for v in values]
    out = list(across.fields)
    if any(along):
        over = {d for fields in along for f in fields for d in varying(f)} - {dim}
        for other in out:
            if varying(other) & over:  # a partner whose pieces do not vary together with it
                for f in (f for piece in along for f in piece):
                    ctx.block(f, [dim], "is joined to a value of another structure")
                return cat(ctx, node, values, dim)
        for value, fields in zip(values, along, strict=True):
            if not fields:
                # A partner of full size without labels along the other dimensions keeps them at their size.
                for f in (f for piece in along for f in piece if over & varying(f)):
                    kept = {d for d in over & varying(f) if value.shape[d] > 1}
                    if kept:
                        ctx.block(f, kept, value.cause or ctx.why("is joined to a value that may not shrink"))
        out.append(
            np.concatenate([_spread(ctx, v, f, shape, over, dim) for v, f in zip(values, along)], axis=dim)
        )
    return ctx.norm(Value(shape, tuple(out), all(v.static for v in values)))


def _without(value: Value, dim: int) -> Value:
    """The fields that do not vary along the joined dimension."""
    fields = tuple(f for f in value.fields if f.shape[dim] == 1)
    return Value(flattened(value.shape, dim), fields, value.static, value.cause)


def _spread(
    ctx: Context, value: Value, fields: Sequence[Labels], shape: tuple[int, ...], over: set[int], dim: int
) -> Labels:
    size = [n if d in over else 1 for d, n in enumerate(shape)]
    size[dim] = value.shape[dim]
    return np.broadcast_to(ctx.find(fields[0]), size) if fields else np.zeros(size, dtype=np.int64)


@rule("stack")
def stack(ctx: Context, node: Node, values: Sequence[Value], dim: int = 0) -> Value:
    """Concatenate along a new dimension."""
    shape = node.tensor_shape()
    dim %= len(shape)
    return cat(ctx, node, [ctx.view(v, flattened(shape, dim)) for v in values], dim)
