"""Data movement: labels move as the data do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..context import Context, Unsupported
from ..labels import Value, expand_left, permute, varying
from ..program import Node
from .registry import rule


@rule(
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "reshape_as", "view_as"
)
def view(ctx: Context, node: Node, x: Value, *_: Any, **__: Any) -> Value:
    """Reshape the labels."""
    return ctx.view(x, node.tensor_shape())


@rule("permute")
def reorder(ctx: Context, node: Node, x: Value, dims: Sequence[int]) -> Value:
    """Permute the labels."""
    return permute(x, [d % x.ndim for d in dims])


@rule("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT")
def transpose(ctx: Context, node: Node, x: Value, a: int | None = None, b: int | None = None) -> Value:
    """Swap two dimensions."""
    order = list(range(x.ndim))
    if a is None or b is None:
        a, b = (0, 1) if node.op == "t" else (-2, -1)
    if x.ndim < 2:
        return x
    a, b = a % x.ndim, b % x.ndim
    order[a], order[b] = b, a
    return permute(x, order)


@rule("movedim", "moveaxis")
def movedim(
    ctx: Context, node: Node, x: Value, source: int | Sequence[int], destination: int | Sequence[int]
) -> Value:
    """Move dimensions."""
    old = [d % x.ndim for d in ([source] if isinstance(source, int) else source)]
    new = [d % x.ndim for d in ([destination] if isinstance(destination, int) else destination)]
    order = [-1] * x.ndim
    for o, n in zip(old, new, strict=True):
        order[n] = o
    rest = (d for d in range(x.ndim) if d not in old)
    return permute(x, [d if d >= 0 else next(rest) for d in order])


@rule("expand", "broadcast_to")
def expand(ctx: Context, node: Node, x: Value, *_: Any, **__: Any) -> Value:
    """Broadcast: a label field need not be repeated for it. Copies may go, as those of a mask for each head."""
    shape = node.tensor_shape()
    old = expand_left(x, len(shape))
    return _with_copies(ctx, node, old, replace(old, shape=shape))


def _with_copies(ctx: Context, node: Node, old: Value, new: Value) -> Value:
    """Label the dimensions of size 1 that a number in the code makes larger; the first one counts samples."""
    numbers = node.args[1] if len(node.args) > 1 and isinstance(node.args[1], tuple) else node.args[1:]
    for d, (a, b, number) in enumerate(zip(old.shape, new.shape, numbers, strict=False)):
        if d and a == 1 and b > 1 and number == b:
            new = ctx.copies(new, d, b)
    return new


@rule("repeat", "tile")
def repeat(ctx: Context, node: Node, x: Value, times: Sequence[int]) -> Value:
    """Tile the labels. Copies of what has none may go."""
    shape = node.tensor_shape()
    wide = expand_left(x, len(shape))
    times = [1] * (len(shape) - len(times)) + list(times)
    tiled = ctx.norm(
        wide.moved(
            shape, lambda f: np.tile(f, [t if n > 1 else 1 for t, n in zip(times, f.shape, strict=True)])
        )
    )
    return _with_copies(ctx, node, wide, tiled) if node.op == "repeat" else tiled


@rule("repeat_interleave")
def repeat_interleave(
    ctx: Context, node: Node, x: Value, repeats: int | Value, dim: int | None = None, **_: Any
) -> Value:
    """Repeat each label. Copies of what has none may go. Where a tensor says how often, the dimension stays."""
    if dim is None:
        raise Unsupported("repeat_interleave of the flattened input")
    dim %= x.ndim
    if isinstance(repeats, Value):
        ctx.block_value(repeats, None, "says how often entries repeat")
        x = ctx.block_value(x, [dim], "is repeated as often as a tensor says")
        return replace(x, shape=node.tensor_shape())
    made = x.moved(node.tensor_shape(), lambda f: f.repeat(repeats, axis=dim) if f.shape[dim] > 1 else f)
    labelled = any(dim in varying(f) for f in made.fields)
    return made if repeats == 1 or labelled else ctx.copies(made, dim, repeats)


@rule("roll", "flip")
def roll(ctx: Context, node: Node, x: Value, first: Any, second: Any = None) -> Value:
    """Roll or flip the labels."""
    shifts, dims = (None, first) if node.op == "flip" else (first, second)
    if not dims:
        raise Unsupported("roll of the flattened input")
    dims = (dims,) if isinstance(dims, int) else tuple(dims)
    shifts = (shifts,) if isinstance(shifts, int) else shifts
    fields = []
    for labels in x.fields:
        for i, d in enumerate(d % x.ndim for d in dims):
            if labels.shape[d] > 1:
                labels = np.flip(labels, d) if shifts is None else np.roll(labels, shifts[i], d)
        fields.append(labels)
    return replace(x, fields=tuple(fields))


@rule("pad", "constant_pad_nd")
def pad(
    ctx: Context, node: Node, x: Value, amounts: Sequence[int], mode: Any = "constant", value: Any = None
) -> Value:
    """Zeros that are put beside labels never go."""
    if node.op == "constant_pad_nd":
        mode = "constant"
    for i in range(len(amounts) // 2):
        before, after, d = amounts[2 * i], amounts[2 * i + 1], x.ndim - 1 - i
        if not before and not after:
            continue
        if mode != "constant" or before < 0 or after < 0:
            x = ctx.block_value(x, [d], f"is padded by {mode}")
        x = _beside(x, d, before, after)
    return ctx.norm(x)


def _beside(x: Value, dim: int, before: int, after: int) -> Value:
    widths = [(before, after) if d == dim else (0, 0) for d in range(x.ndim)]
    shape = (*x.shape[:dim], x.shape[dim] + before + after, *x.shape[dim + 1 :])
    return x.moved(shape, lambda labels: np.pad(labels, widths) if labels.shape[dim] > 1 else labels)


@rule("pixel_shuffle")
def pixel_shuffle(ctx: Context, node: Node, x: Value, factor: int) -> Value:
    """A unit is the square of channels that become one."""
    *batch, channels, height, width = x.shape
    split = ctx.view(x, (*batch, channels // factor**2, factor, factor, height, width))
    n = len(batch)
    moved = permute(split, [*range(n), n, n + 3, n + 1, n + 4, n + 2])
    moved = ctx.block_value(moved, range(n + 1, n + 5), "becomes a spatial position")
    return ctx.view(moved, node.tensor_shape())


@rule("pixel_unshuffle")
def pixel_unshuffle(ctx: Context, node: Node, x: Value, factor: int) -> Value:
    """A channel becomes a square of channels."""
    *batch, channels, height, width = x.shape
    n = len(batch)
    x = ctx.block_value(x, [n + 1, n + 2], "becomes channels")
    split = ctx.view(x, (*batch, channels, height // factor, factor, width // factor, factor))
    moved = permute(split, [*range(n), n, n + 2, n + 4, n + 1, n + 3])
    return ctx.view(moved, node.tensor_shape())


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(ctx: Context, node: Node, x: Value, groups: int) -> Value:
    """Split the channels, swap, merge."""
    split = ctx.view(x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    return ctx.view(permute(split, [0, 2, 1, *range(3, split.ndim)]), node.tensor_shape())
