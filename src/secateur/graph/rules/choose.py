"""Entries that tensors choose: read, written, counted. The dimension that is indexed stays as it is, others pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..context import Context, Unsupported
from ..labels import Value, expand_left, flattened
from ..program import Node
from .registry import Result, blank, rule

_WHY = "is indexed by a tensor"


@dataclass(frozen=True)
class _Chosen:
    """Where several index tensors leave the dimensions of what they index."""

    covered: tuple[int, ...]  # those that are indexed, a mask indexes as many as it has
    before: tuple[int, ...]  # the others, in front of what the indices make
    behind: tuple[int, ...]

    @staticmethod
    def of(indices: Sequence[Value | None], ndim: int) -> _Chosen:
        """Return what ``x[indices]`` does to the dimensions of an x of so many."""
        covered, places, d = list[int](), list[int](), 0
        for place, i in enumerate(indices):
            width = i.ndim if i is not None and i.mask else 1
            if i is not None:
                covered += range(d, d + width)
                places.append(place)
            d += width
        if not covered:
            raise Unsupported("indexing with nothing")
        adjacent = places[-1] - places[0] + 1 == len(places)
        kept = [k for k in range(ndim) if k not in covered]
        place = sum(k < covered[0] for k in kept) if adjacent else 0
        return _Chosen(tuple(covered), tuple(kept[:place]), tuple(kept[place:]))

    def around(self, sizes: Sequence[int], middle: Sequence[int]) -> tuple[int, ...]:
        """Return the sizes of the result, from those of x and of what the indices make."""
        return (*(sizes[d] for d in self.before), *middle, *(sizes[d] for d in self.behind))


@rule("index", "_unsafe_index")
def index(ctx: Context, node: Node, x: Value, indices: Sequence[Value | None]) -> Value:
    """Freeze the dimensions that tensors index; those that a mask covers become one."""
    chosen = _Chosen.of(indices, x.ndim)
    shape = node.tensor_shape()
    middle = (1,) * (len(shape) - len(chosen.before) - len(chosen.behind))
    x = ctx.block_value(x, chosen.covered, _WHY)
    made = [_whole(ctx, i) for i in indices if i is not None]
    static = x.static and all(i.static for i in made)
    return replace(x.reshaped(lambda sizes: chosen.around(sizes, middle)), shape=shape, static=static)


@rule("index_put", "_unsafe_index_put", "_index_put_impl")
def index_put(
    ctx: Context, node: Node, x: Value, indices: Sequence[Value | None], values: Value, *_: Any
) -> Value:
    """Freeze the dimensions that tensors index; along the others what is written goes with what is written into."""
    chosen = _Chosen.of(indices, x.ndim)
    x = ctx.block_value(x, chosen.covered, _WHY)
    made = [_whole(ctx, i) for i in indices if i is not None]
    middle = (1,) * max(1 if i.mask else i.ndim for i in made)
    read = x.reshaped(lambda sizes: chosen.around(sizes, middle))
    places = range(len(chosen.before), len(chosen.before) + len(middle))
    ctx.joint(read.shape, [read, _flat(ctx, expand_left(values, read.ndim), places)])
    return ctx.norm(x)


@rule("index_select")
def index_select(ctx: Context, node: Node, x: Value, dim: int, chosen: Value) -> Value:
    """Freeze the dimension that a tensor indexes."""
    return _gathered(ctx, x, dim % x.ndim, chosen)


@rule("embedding")
def embedding(ctx: Context, node: Node, weight: Value, indices: Value, *_: Any, **__: Any) -> Value:
    """Freeze the rows; the columns pass."""
    return replace(_gathered(ctx, weight, 0, indices), static=False)


@rule("index_add", "index_copy", "index_fill")
def write_rows(
    ctx: Context, node: Node, x: Value, dim: int, chosen: Value, source: Any = None, *_: Any, **__: Any
) -> Value:
    """Freeze the dimension that a tensor indexes; along the others rows go with what they are written into."""
    _whole(ctx, chosen)
    return _written(ctx, x, dim % x.ndim, [source])


@rule("gather")
def gather(ctx: Context, node: Node, x: Value, dim: int, chosen: Value, **_: Any) -> Value:
    """Freeze the dimension that is indexed; the others must be of full size."""
    x = ctx.block_value(x, [dim], _WHY)
    fields = tuple(f for f in x.fields if np.broadcast_shapes(f.shape, chosen.shape) == chosen.shape)
    if len(fields) < len(x.fields) or x.ndim != chosen.ndim:
        raise Unsupported("gather of a part of the other dimensions")
    return ctx.joint(chosen.shape, [replace(x, shape=chosen.shape), chosen])


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(
    ctx: Context, node: Node, x: Value, dim: int, chosen: Value, source: Any = None, *_: Any, **__: Any
) -> Value:
    """Freeze the dimension that is indexed; the others must be of full size."""
    dim %= x.ndim
    for value in (chosen, source):
        if isinstance(value, Value) and value.ndim and flattened(value.shape, dim) != flattened(x.shape, dim):
            raise Unsupported("scatter into a part of the other dimensions")
    return _written(ctx, x, dim, [chosen, source])


@rule("nonzero", "nonzero_static", "argwhere", "masked_select", "_unique", "_unique2", "unique_dim",
      "unique_consecutive", "bincount", "histc", "searchsorted", "bucketize")  # fmt: skip
def by_value(ctx: Context, node: Node, *args: Any, **kwargs: Any) -> Result:
    """Freeze all that decides by its values how much comes out, and where."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Value):
            _whole(ctx, value, "its values decide what is chosen")
    return blank(node)


def _gathered(ctx: Context, x: Value, dim: int, chosen: Value) -> Value:
    x, chosen = ctx.block_value(x, [dim], _WHY), _whole(ctx, chosen)
    shape, middle = (*x.shape[:dim], *chosen.shape, *x.shape[dim + 1 :]), (1,) * chosen.ndim
    gathered = x.reshaped(lambda sizes: (*sizes[:dim], *middle, *sizes[dim + 1 :]))
    return replace(gathered, shape=shape, static=x.static and chosen.static)


def _written(ctx: Context, x: Value, dim: int, sources: Sequence[Any]) -> Value:
    """Unify what is written with what it is written into, along all dimensions but one."""
    parts = [v for v in sources if isinstance(v, Value) and v.ndim == x.ndim]
    x = ctx.block_value(x, [dim], _WHY)
    ctx.joint(flattened(x.shape, dim), [_flat(ctx, v, [dim]) for v in (x, *parts)])
    return ctx.norm(x)


def _flat(ctx: Context, value: Value, dims: Sequence[int]) -> Value:
    """Return a value with one entry along these dimensions, which may not shrink."""
    value = ctx.block_value(value, dims, "is written by an index")
    return replace(value, shape=flattened(value.shape, *dims))


def _whole(ctx: Context, value: Value, why: str = "chooses entries of another value") -> Value:
    """Freeze all of what chooses."""
    return ctx.block_value(value, None, why)
