"""How far a pruned network is from doing what the dense one does: where its branches end, and at its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.ground.tensors import floating
from secateur.statistics import Calibration, Forward
from secateur.statistics.forward import Watch

from .jobs import Job

__all__ = ["Point", "Wish", "difference", "distance", "points", "remembered", "wishes"]


@dataclass(frozen=True)
class Point:
    """A value in which the two networks are compared, on the channels (n,) of its dimension `dim` that are left."""

    node: str
    dim: int
    channels: Tensor
    rectified: bool  # nothing but a ReLU reads it: what is below zero does not count

    def left(self, value: Tensor) -> Tensor:
        """Return what is left of the value, which may have its full shape or lack what is gone."""
        whole = value.shape[self.dim] != len(self.channels)
        return value.index_select(self.dim, self.channels.to(value.device)) if whole else value


@dataclass(frozen=True)
class Wish:
    """What the dense network makes of some inputs: its floating outputs, and its values at the points, by node."""

    outputs: Sequence[Tensor]
    values: Mapping[str, Tensor]

    def of(self, index: Tensor) -> Wish:
        """Return the wish for some of the samples, which lie along dimension 0 of everything."""
        return Wish([o[index] for o in self.outputs], {name: v[index] for name, v in self.values.items()})

    def tensors(self) -> list[Tensor]:
        """Return all of it."""
        return [*self.outputs, *self.values.values()]


def points(touched: Sequence[Job]) -> list[Point]:
    """Return where pruning can be seen: at the sums that branches enter, or behind each layer where there are none."""
    chosen = [job for job in touched if job.outlet.join is not None] or touched
    return [Point(j.outlet.end, j.layer.channel_dim, j.channels(), j.outlet.rectified) for j in chosen]


def wishes(dense: Forward, at: Sequence[Point], inputs: list[Any]) -> Wish:
    """Run the dense network."""
    values: dict[str, Tensor] = {}

    def watch(point: Point) -> Watch:
        def call(args: tuple[Any, ...], result: Tensor) -> None:
            values[point.node] = point.left(result).clone()  # calls behind it may write into it

        return call

    outputs = dense.run(inputs, {}, {p.node: watch(p) for p in at}, whole=True)
    return Wish(floating(outputs), values)


def remembered(
    dense: Forward, at: Sequence[Point], batches: Calibration, pool: list[Any], size: int, memory: int
) -> Wish | None:
    """Return what the dense network makes of all samples of a pool, run `size` at a time.

    None where that needs more than `memory` bytes, or samples do not lie along dimension 0 of all that is compared.
    """
    n = batches.samples(pool)
    parts: list[Wish] = []
    for index in torch.arange(n).split(size):
        wish = wishes(dense, at, batches.take(pool, index))
        tensors = wish.tensors()
        needed = sum(t.numel() * t.element_size() for t in tensors) * n / len(index)
        if needed > memory or any(t.ndim == 0 or len(t) != len(index) for t in tensors):
            return None
        parts.append(wish)
    outputs = [torch.cat(values) for values in zip(*(part.outputs for part in parts), strict=True)]
    return Wish(outputs, {p.node: torch.cat([part.values[p.node] for part in parts]) for p in at})


def distance(pruned: Forward, at: Sequence[Point], inputs: list[Any], wish: Wish) -> Tensor:
    """Return the mean distance over the points plus the mean over the outputs, each relative to its variance."""
    terms: list[Tensor] = []

    def watch(point: Point) -> Watch:
        def call(args: tuple[Any, ...], result: Tensor) -> None:
            terms.append(_relative(wish.values[point.node], point.left(result), point.rectified))

        return call

    found = floating(pruned.run(inputs, {}, {p.node: watch(p) for p in at}, whole=True))
    outputs = [_relative(a, b) for a, b in zip(wish.outputs, found, strict=True)]
    return torch.stack(outputs).mean() + (torch.stack(terms).mean() if terms else 0)


def difference(wish: Tensor, found: Tensor, rectified: bool) -> Tensor:
    """Return how far a value is from the wish; if `rectified`, one below zero is met by all that is below zero.

    It may be written into later: nothing here keeps `found` itself for its gradient.
    """
    if not rectified:
        return found - wish
    counts = ((wish > 0) | (found.detach() > 0)).to(wish.dtype)  # a product is far quicker than a choice
    return found * counts - wish.relu() * counts


def _relative(wish: Tensor, found: Tensor, rectified: bool = False) -> Tensor:
    """Return the mean squared difference over the variance of what is wished for."""
    power = max(float(wish.var(correction=0)), torch.finfo(wish.dtype).tiny)
    return difference(wish, found, rectified).square().mean() / power
