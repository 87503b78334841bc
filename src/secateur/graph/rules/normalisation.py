"""Normalisations: only per-channel ones leave their dimension free (masked = shrunk)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..context import Context
from ..labels import Value
from ..program import Node
from .registry import rule


@rule("batch_norm", "instance_norm")
def batch_norm(
    ctx: Context,
    node: Node,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    training: bool = False,
    *_: Any,
) -> Value:
    """Scale and shift each channel by its own numbers."""
    if node.op == "instance_norm" or training:
        # Over the batch alone, for an instance: only the channels may change without moving the statistics.
        x = ctx.block_value(x, [d for d in range(x.ndim) if d != 1], "statistics are taken over it")
    vectors = [p.as_channels(x.ndim) for p in (weight, bias, mean, variance) if p is not None]
    return ctx.joint(x.shape, [x, *vectors])


@rule("layer_norm", "rms_norm")
def layer_norm(ctx: Context, node: Node, x: Value, normalized_shape: Sequence[int], *rest: Any) -> Value:
    """Freeze what is normalised over, parameters included."""
    dims = range(x.ndim - len(normalized_shape), x.ndim)
    why = ctx.why(f"{node.op} normalises over it")
    affine = [v for v in rest if isinstance(v, Value)]
    for value in affine:
        for labels in value.fields:
            ctx.freeze(labels, why)
    x = ctx.block_value(x, dims, why)
    return ctx.joint(x.shape, [x, *map(ctx.norm, affine)])


@rule("group_norm")
def group_norm(
    ctx: Context,
    node: Node,
    x: Value,
    num_groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    *_: Any,
) -> Value:
    """A unit is a whole group; one group for all freezes the channels."""
    for labels in ctx.norm(x).fields:
        if labels.shape[1] > 1:
            if num_groups == 1:
                ctx.block(labels, [1], "group_norm normalises over it")
            else:
                groups = labels.reshape(labels.shape[0], num_groups, -1)
                ctx.union(groups, groups[:, :, :1])
                if groups.shape[2] > 1:
                    ctx.mark("conv-group", labels)
    spatial = [d for d in range(x.ndim) if d > 1]
    x = ctx.block_value(x, spatial, "group_norm normalises over it")
    vectors = [p.as_channels(x.ndim) for p in (weight, bias) if p is not None]
    return ctx.joint(x.shape, [x, *vectors])


@rule("_weight_norm")
def weight_norm(ctx: Context, node: Node, v: Value, g: Value, dim: int = 0) -> Value:
    """Freeze the weight: its norm would change with its inputs, and its units could not be ranked."""
    why = "weight_norm divides it by its norm: make the weight a plain one (remove_parametrizations) to prune it"
    v, g = (ctx.block_value(value, None, why) for value in (v, g))
    return Value(v.shape, cause=ctx.why(why))


@rule("softmax", "_softmax", "log_softmax", "_log_softmax")
def softmax(ctx: Context, node: Node, x: Value, dim: int, *_: Any, **__: Any) -> Value:
    """Freeze what is normalised over."""
    return ctx.block_value(x, [dim], f"{node.op} normalises over it")
