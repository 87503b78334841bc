"""Scaled dot product attention."""

from __future__ import annotations

from dataclasses import replace

from ..context import Context
from ..labels import Value, permute, varying
from ..program import Node
from .linear import matmul
from .registry import rule

OPERATORS = frozenset({"scaled_dot_product_attention"})


@rule("scaled_dot_product_attention")
def attention(
    ctx: Context,
    node: Node,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """Two products around a softmax: whole heads remain, and single channels of the values."""
    query, key, value = (_heads(ctx, v) for v in (query, key, value))
    if enable_gqa:
        key, value = (_repeat_heads(v, query.shape[-3]) for v in (key, value))
    if scale is None:
        for v in (query, key):
            ctx.block_value(v, [-1], "scales the attention by 1 / sqrt(its size)")
    order = [*range(key.ndim - 2), key.ndim - 1, key.ndim - 2]
    weights = matmul(ctx, node, ctx.norm(query), permute(ctx.norm(key), order))
    if attn_mask is not None:
        weights = ctx.joint(weights.shape, [weights, attn_mask])
    weights = ctx.block_value(weights, [-2, -1], "softmax normalises over it")
    return matmul(ctx, node, weights, value)


def _heads(ctx: Context, value: Value) -> Value:
    value = ctx.block_value(value, [-2], "attention reads it as positions")
    last = value.ndim - 1
    fields = [ctx.coarsen(f, [last]) if varying(f) - {last} else f for f in value.fields]
    return ctx.norm(replace(value, fields=tuple(fields)))


def _repeat_heads(value: Value, heads: int) -> Value:
    dim = value.ndim - 3
    times = heads // value.shape[dim]
    shape = (*value.shape[:dim], heads, *value.shape[dim + 1 :])
    return value.moved(shape, lambda f: f.repeat(times, axis=dim) if f.shape[dim] > 1 else f)
