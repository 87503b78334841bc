"""Convolutions of any rank: plain, grouped, depthwise, transposed; and their unfolded forms."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..context import Context, Unsupported
from ..labels import Labels, Reason, Value, varying
from ..program import Node
from .registry import rule

OPERATORS = frozenset(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3))


@rule(*OPERATORS)
def convolution(
    ctx: Context, node: Node, x: Value, weight: Value, bias: Value | None = None, *more: Any, **options: Any
) -> Value:
    """Unify input channels with the weight's depth, output channels with its width; see `_group` for groups.

    The first two dimensions of a transposed one's weight are swapped: (inputs, outputs of a group, *taps).
    """
    groups = options.get("groups", more[3] if len(more) > 3 else 1)
    shape = node.tensor_shape()
    if x.ndim != weight.ndim:
        raise Unsupported("convolution of an input without batch dimension")
    spatial = range(2, x.ndim)
    x = ctx.block_value(x, spatial, "a convolution slides over it")
    weight = ctx.block_value(weight, spatial, ctx.why("kernel position", structural=True))
    inputs, rest = _channels(ctx, x)
    wide, deep = _along(weight, 0), _along(weight, 1)
    samples = _samples_beside(node)
    if samples > 1:
        inputs, wide, groups = _of_one(ctx, inputs, samples), _of_one(ctx, wide, samples), groups // samples
    why = x.cause or ctx.why("reads channels that may not shrink")
    if "transpose" in node.op:
        ctx.union(inputs, wide, why)
        made = np.tile(deep, groups)
        if groups > 1:
            made = _group_transposed(ctx, wide.reshape(groups, -1), deep)
    else:
        made = wide
        if groups == 1:
            ctx.union(inputs, deep, why)
        else:
            _group(ctx, inputs.reshape(groups, -1), wide.reshape(groups, -1), deep, why)
    made = np.tile(made, samples)
    column = (1, shape[1], *[1] * len(spatial))
    out = Value(shape, (made.reshape(column), *rest), x.static and weight.static)
    return ctx.norm(out if bias is None else ctx.joint(shape, [out, bias.as_channels(x.ndim)]))


def _samples_beside(node: Node) -> int:
    """Return how many samples lie beside one another as channels, each with a kernel of its own; 1 if they do not.

    Modulated convolutions and cross-correlations do so: their groups count the batch.
    """
    if not node.carries(1) or node.carries(0):
        return 1
    shape, alone = node.sizes()
    return shape[1] // alone[1]


def _of_one(ctx: Context, channels: Labels, samples: int) -> Labels:
    """Return the channels of one sample; what goes from it goes from all."""
    each = channels.reshape(samples, -1)
    ctx.union(each, each[:1])
    return ctx.find(each[0])


def _channels(ctx: Context, x: Value) -> tuple[Labels, list[Labels]]:
    """Split the fields of an input into its channel labels and those of its batch dimension."""
    channels = np.zeros(x.shape[1], dtype=np.int64)
    rest = []
    for labels in x.fields:
        if varying(labels) == {1}:
            channels = ctx.find(labels).ravel()
        elif varying(labels) == {0}:
            rest.append(labels)
        else:  # heads folded into the batch: the channels of all of them are convolved alike
            rest.append(ctx.coarsen(labels, range(1, x.ndim))[:, :1].reshape(-1, *[1] * (x.ndim - 1)))
    return channels, rest


def _along(weight: Value, dim: int) -> Labels:
    for labels in weight.fields:
        if dim in varying(labels):
            if varying(labels) != {dim}:
                raise Unsupported("a weight whose dimensions were merged")
            return labels.ravel()
    return np.zeros(weight.shape[dim], dtype=np.int64)


def passes_groups(groups: int, width: int) -> bool:
    """Say whether a unit of a grouped convolution is a whole group (else: one position of every group).

    Such a convolution neither makes nor reads units, they pass through it. `width` counts the input channels
    of a group.
    """
    return groups > 1 and (width == 1 or groups >= width)


def _group(ctx: Context, inputs: Labels, outputs: Labels, deep: Labels, why: Reason) -> None:
    """Relate (groups, channels of a group) labels: whole groups go, or the same position of every group."""
    groups, width = inputs.shape
    if passes_groups(groups, width):
        ctx.union(inputs, inputs[:, :1], why)
        ctx.union(outputs, outputs[:, :1])
        ctx.union(inputs[:, :1], outputs[:, :1], why)
        ctx.freeze(deep, ctx.why("position inside a convolution group", structural=True))
        if width > 1:
            ctx.mark("conv-group", outputs)
    else:
        ctx.union(inputs, inputs[:1], why)
        ctx.union(outputs, outputs[:1])
        ctx.union(deep, inputs[0], why)


def _group_transposed(ctx: Context, inputs: Labels, deep: Labels) -> Labels:
    """As `_group`, for inputs (groups, channels of a group) and the outputs of one group; return all outputs."""
    groups, width = inputs.shape
    if passes_groups(groups, width):
        ctx.union(inputs, inputs[:, :1])
        ctx.freeze(deep, ctx.why("position inside a convolution group", structural=True))
        if width > 1 or len(deep) > 1:
            ctx.mark("conv-group", inputs)
        return inputs[:, 0].repeat(len(deep))
    ctx.union(inputs, inputs[:1])
    return np.tile(deep, groups)


@rule("im2col")
def unfold(ctx: Context, node: Node, x: Value, kernel_size: Any, *_: Any) -> Value:
    """Windows to columns: a channel's label repeats for every tap."""
    x = ctx.block_value(x, [2, 3], "windows slide over it")
    taps = prod(kernel_size)

    def columns(labels: Labels) -> Labels:
        each = labels if labels.shape[1] == 1 else labels.repeat(taps, axis=1)
        return each.reshape(*each.shape[:2], 1)

    return ctx.norm(x.moved(node.tensor_shape(), columns))


@rule("col2im")
def fold(ctx: Context, node: Node, x: Value, output_size: Any, kernel_size: Any, *_: Any) -> Value:
    """Columns back to an image: the taps of a channel are one unit."""
    x = ctx.block_value(x, [2], "windows slide over it")
    taps = prod(kernel_size)

    def channels(labels: Labels) -> Labels:
        if labels.shape[1] > 1:
            labels = ctx.coarsen(labels.reshape(labels.shape[0], -1, taps), [2])[:, :, :1]
        return labels.reshape(*labels.shape[:2], 1, 1)

    return ctx.norm(x.moved(node.tensor_shape(), channels))
