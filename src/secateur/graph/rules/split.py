"""Taking parts of a dimension: slices, pieces, rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..context import Context
from ..labels import Value
from ..program import Node
from .registry import Result, rule


@rule(
    "split", "split_with_sizes", "chunk", "unsafe_chunk", "unsafe_split", "tensor_split", "hsplit", "vsplit"
)
def split(ctx: Context, node: Node, x: Value, sections: int | Sequence[int], dim: int = 0) -> Result:
    """Cut the labels; pieces of one common size shrink alike."""
    dim %= x.ndim
    sizes = [s[dim] for s in node.shape or () if isinstance(s, tuple)]
    pieces, start = [], 0
    for size in sizes:
        pieces.append(ctx.select(x, dim, slice(start, start + size)))
        start += size
    if isinstance(sections, int) and any(f.shape[dim] > 1 for f in x.fields):
        _alike(ctx, x, pieces, dim)  # the sizes follow from one number, so the pieces shrink alike
    for piece in pieces:
        _must_stay(ctx, piece, dim)
    return [ctx.norm(p) for p in pieces]


def _alike(ctx: Context, x: Value, pieces: list[Value], dim: int) -> None:
    labelled = [[f for f in p.fields if f.shape[dim] > 1] for p in pieces]
    if len({p.shape for p in pieces}) > 1 or not all(labelled):
        ctx.block_value(x, [dim], "is cut into equal pieces that differ in what they hold")
        return
    for fields in labelled[1:]:
        ctx.union(fields[0], labelled[0][0])


def _must_stay(ctx: Context, piece: Value, dim: int) -> None:
    for labels in piece.fields:
        if labels.shape[dim] > 1:
            ctx.piece(labels, f"a piece that {ctx.here.op} cuts out keeps one unit")


@rule("unbind")
def unbind(ctx: Context, node: Node, x: Value, dim: int = 0) -> Result:
    """One value for each index."""
    dim %= x.ndim
    return [ctx.drop_dim(ctx.select(x, dim, [i]), dim) for i in range(x.shape[dim])]


@rule("slice")
def take_slice(
    ctx: Context,
    node: Node,
    x: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    """Slice the labels."""
    dim %= x.ndim
    part = ctx.select(x, dim, slice(start, end, step))
    if part.shape[dim] < x.shape[dim]:
        _must_stay(ctx, part, dim)
    return part


@rule("narrow")
def narrow(ctx: Context, node: Node, x: Value, dim: int, start: int, length: int) -> Value:
    """Slice the labels."""
    part = ctx.select(x, dim % x.ndim, slice(start, start + length))
    _must_stay(ctx, part, dim % x.ndim)
    return part


@rule("select")
def select(ctx: Context, node: Node, x: Value, dim: int, index: int) -> Value:
    """One index of the labels; where that is a single unit it stays."""
    dim %= x.ndim
    return ctx.drop_dim(ctx.select(x, dim, [index % x.shape[dim]]), dim)


@rule("glu")
def glu(ctx: Context, node: Node, x: Value, dim: int = -1) -> Value:
    """The two halves are unified."""
    dim %= x.ndim
    half = x.shape[dim] // 2
    parts = [ctx.select(x, dim, slice(0, half)), ctx.select(x, dim, slice(half, None))]
    return ctx.joint(node.tensor_shape(), parts)


@rule("getitem")
def getitem(ctx: Context, node: Node, x: Sequence[Value | None], position: int) -> Result:
    """One of several outputs."""
    return x[position]


@rule("diff")
def diff(ctx: Context, node: Node, x: Value, n: int = 1, dim: int = -1, *_: Any) -> Value:
    """Freeze the dimension of the differences."""
    x = ctx.block_value(x, [dim], "neighbours are subtracted")
    return replace(x, shape=node.tensor_shape())


@rule("unfold")
def windows(ctx: Context, node: Node, x: Value, dim: int, size: int, step: int) -> Value:
    """Freeze the dimension along which windows slide; they come last."""
    x = ctx.block_value(x, [dim], "windows slide over it")
    return replace(x.reshaped(lambda sizes: (*sizes, 1)), shape=node.tensor_shape())


@rule("tril", "triu")
def triangle(ctx: Context, node: Node, x: Value, *_: Any) -> Value:
    """Freeze the two dimensions of the triangle."""
    return ctx.block_value(x, [-2, -1], "a triangle of it is taken")
