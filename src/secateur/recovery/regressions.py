"""Regressions of layers, summed while the dense and the pruned network run side by side.

`OutputRegression` solves layers' weights over whole patches towards what their outputs should be;
`InputRegression` solves how the inputs that are left stand in for all inputs, the same at every tap, where patches
would need too much memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from secateur.graph import Graph
from secateur.ground.devices import moments_device, onto
from secateur.statistics.collect import reading
from secateur.statistics.forward import Watch
from secateur.statistics.outlets import affine
from secateur.statistics.patches import Rows, output_rows, read_rows

from .jobs import Job
from .least_squares import Moments, identity, solve
from .sums import Sums

__all__ = ["InputRegression", "OutputRegression", "Regression", "Sampling", "regressions", "watches"]


WIDE = 2400  # unknowns


@dataclass(frozen=True)
class Sampling:
    """How many output positions of a sample are looked at: `positions`, or more for `oversampling` rows an unknown.

    Unknowns beyond `WIDE` ask for no more rows: the taps of a wide kernel read one signal at neighbouring places, and
    sums over that many rows already cost more than all else.
    """

    samples: int
    positions: int
    oversampling: int

    def wanted(self, unknowns: int) -> int:
        """Return the number of positions for that many unknowns."""
        rows = self.oversampling * min(unknowns, WIDE)
        return max(self.positions, -(-rows // max(self.samples, 1)))


def regressions(
    graph: Graph,
    jobs: Sequence[Job],
    dense: Mapping[str, Tensor],
    sampling: Sampling,
    memory: int,
    patches: bool,
    rectified: bool,
) -> list[Regression]:
    """Return the regressions of layers that are solved together: over patches where their moments fit into `memory`.

    Layers over patches that read alike (queries, keys and values; gates and what they gate) share one.
    """
    alike: dict[tuple[Any, ...], list[Job]] = {}
    found: list[Regression] = []
    for job in jobs:
        fits = 2 * 8 * len(job.groups) * (job.width + 1) ** 2 <= memory
        if job.taps * job.fold == 1 or not job.inputs.shape[1] or (patches and fits):
            alike.setdefault(_reading(job), []).append(job)
        else:
            found.append(InputRegression(job, dense, sampling))
    return [*(OutputRegression(graph, some, dense, sampling, rectified) for some in alike.values()), *found]


def _reading(job: Job) -> tuple[Any, ...]:
    """Return what jobs that read the same value in the same way have in common."""
    kept = tuple(job.groups.tolist()), tuple(job.inputs.flatten().tolist())
    return (*reading(job.layer), job.layer.channel_dim, *kept, job.intercept is not None)


Regression: TypeAlias = "OutputRegression | InputRegression"

Solver = Callable[[Moments, Moments, Moments, Tensor, Sequence[float], Tensor | None], Tensor]
"""Solves on the fit, held-out and whole moments from weights to start from, as `least_squares.solve` does."""


class OutputRegression:
    """Least squares of what layers are to make, on the patches that all of them read alike.

    What counts is the value at the end of a layer's outlet (the residual sum, the BatchNorm's output or its own). With
    `rectified`, where only a ReLU reads that value, wishes below zero are met by anything below zero: the wish is
    then what the pruned network has there already, at most zero (a majorisation step of that one-sided error).
    """

    def __init__(
        self,
        graph: Graph,
        jobs: Sequence[Job],
        dense: Mapping[str, Tensor],
        sampling: Sampling,
        rectified: bool,
    ) -> None:
        self._job = jobs[0]
        self._spatial = math.prod(self._job.layer.positions)
        self._wanted = sampling.wanted(self._job.width)
        self._sums = Sums(
            self._job.layer.module,
            len(self._job.groups),
            self._job.width + (self._job.intercept is not None),
            [job.outputs.shape[1] for job in jobs],
            moments_device(dense[self._job.layer.weight].device),
        )
        self._targets = [
            _Target(graph, job, dense, rectified, partial(self._sums.made, k)) for k, job in enumerate(jobs)
        ]

    @property
    def unneeded(self) -> set[str]:
        """The nodes of the pruned network that need not run for this: layers of which only the target counts."""
        return {t.job.layer.node for t in self._targets if not t.rectified}

    def begin(self, held: Tensor, generator: torch.Generator) -> None:
        """Start a batch: draw the output positions that count."""
        self._held = held
        self._rows = Rows.draw(self._spatial, self._wanted, generator)
        for target in self._targets:
            target.rows = self._rows

    def original(self) -> tuple[dict[str, Watch], dict[str, Watch]]:
        """Return what to watch in the dense network: (reads, makes)."""
        return watches([({}, {t.job.outlet.end: t.wished}) for t in self._targets])

    def pruned(self) -> tuple[dict[str, Watch], dict[str, Watch]]:
        """Return what to watch in the pruned network: (reads, makes)."""
        reads: dict[str, Watch] = {self._job.layer.node: self._read}
        return watches([(reads, {}), *(t.watched() for t in self._targets)])

    def solve(
        self,
        current: Mapping[str, Tensor],
        strengths: Sequence[float],
        under: Callable[[Tensor], Solver] | None = None,
    ) -> dict[str, Tensor]:
        """Return the repaired tensors in the full shapes; `under` makes the solver for the weights to start from."""
        start = torch.cat([t.start(current) for t in self._targets], 1)
        unseen = torch.cat([t.unseen for t in self._targets], 1).to(start.device)
        solver = solve if under is None else under(start)
        solved = solver(*self._sums.moments(), start, strengths, unseen)
        repaired: dict[str, Tensor] = {}
        parts = solved.split([t.job.outputs.shape[1] for t in self._targets], 1)
        for target, part in zip(self._targets, parts, strict=True):
            repaired |= target.repaired(current, part)
        return repaired

    def _read(self, args: tuple[Any, ...], result: None) -> None:
        x = args[self._job.layer.position]
        x = x.index_select(self._job.layer.channel_dim, self._job.input_channels().to(x.device))
        x = read_rows(self._job.layer, x, self._rows, groups=len(self._job.groups))
        if self._job.intercept is not None:
            x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2)
        self._sums.read(x, self._held)


class _Target:
    """What one layer should make, found in the dense and the pruned network at the same positions."""

    rows: Rows

    def __init__(
        self,
        graph: Graph,
        job: Job,
        dense: Mapping[str, Tensor],
        rectified: bool,
        made: Callable[[Tensor], None],
    ) -> None:
        self.job, self._made = job, made
        self.rectified = rectified and job.outlet.rectified
        g, m = job.outputs.shape
        self._affine = affine(job.outlet.batch_norm, graph, dense)
        # A BatchNorm that multiplies by zero does not show what came in: such outputs keep their weights.
        where = dense[job.layer.weight].device
        self.unseen = torch.zeros(g, m, dtype=torch.bool, device=where)
        if self._affine is not None:
            scale = self._affine.scale.abs()
            self.unseen = (scale <= 1e-6 * scale.max())[job.channels()].view(g, m)
        self._bias = (
            dense[job.layer.bias][job.channels()].view(g, 1, m) if job.layer.bias is not None else None
        )

    def watched(self) -> tuple[dict[str, Watch], dict[str, Watch]]:
        """Return what to watch in the pruned network: (reads, makes)."""
        join = self.job.outlet.join
        reads: dict[str, Watch] = {} if join is None else {join: self._other}
        return reads, {self.job.outlet.end: self._end}

    def start(self, current: Mapping[str, Tensor]) -> Tensor:
        """Return the weights to start from, with a column for the constant if something takes one."""
        start = self.job.split(current[self.job.layer.weight])
        if self.job.intercept is None:
            return start
        return torch.cat([start, start.new_zeros(*start.shape[:2], 1)], 2)

    def repaired(self, current: Mapping[str, Tensor], solved: Tensor) -> dict[str, Tensor]:
        """Return the layer's tensors with what was solved in place of `start`."""
        job, weight = self.job, current[self.job.layer.weight]
        if job.intercept is None:
            return {job.layer.weight: job.merge(weight, solved)}
        value = current[job.intercept].clone()
        sign = -1 if job.outlet.batch_norm is not None else 1
        value[job.channels()] += onto(sign * solved[:, :, -1].reshape(-1), value)
        return {job.intercept: value, job.layer.weight: job.merge(weight, solved[:, :, :-1])}

    def wished(self, args: tuple[Any, ...], result: Tensor) -> None:
        """Keep what the dense network makes."""
        self._wish = self._left(output_rows(self.job.layer, result, self.rows)).clone()

    def _other(self, args: tuple[Any, ...], result: None) -> None:
        other = output_rows(self.job.layer, args[self.job.outlet.operand], self.rows)
        self._rest = self._left(other).clone()  # the sum may be made in place

    def _end(self, args: tuple[Any, ...], result: Tensor) -> None:
        """From the wish at the end of the outlet back to the layer: ReLU, other summand, BatchNorm, bias."""
        job, y = self.job, self._wish
        if self.rectified:
            found = self._left(output_rows(job.layer, result, self.rows))
            y = torch.where(y > 0, y, found.clamp_max(0))
        if job.outlet.join is not None:
            y = y - self._rest
        if self._affine is not None:
            g, m = job.outputs.shape
            scale, shift = (v[job.channels()].view(g, 1, m) for v in (self._affine.scale, self._affine.shift))
            y = (y - shift) / torch.where(self.unseen[:, None], torch.ones_like(scale), scale)
        if self._bias is not None:
            y = y - self._bias
        self._made(y)

    def _left(self, rows: Tensor) -> Tensor:
        """Keep the outputs that are left, (g, rows, m)."""
        return rows[self.job.groups[:, None], :, self.job.outputs].movedim(1, 2)


class InputRegression:
    """Least squares of all the inputs that the dense layer reads on those that the pruned one is left with."""

    def __init__(self, job: Job, dense: Mapping[str, Tensor], sampling: Sampling) -> None:
        self._job = job
        self._weight = dense[job.layer.weight]
        self._spatial = math.prod(job.layer.positions)
        self._wanted = -(-sampling.wanted(job.width // job.taps) // job.taps)
        self._kept = job.inputs[:, :: job.fold] // job.fold
        self._where = moments_device(self._weight.device)
        self._sums = Sums(
            job.layer.module,
            len(job.groups),
            self._kept.shape[1],
            [job.layer.width // job.fold],
            self._where,
        )

    @property
    def unneeded(self) -> set[str]:
        """The nodes of the pruned network that need not run for this: the layer, of which only the input counts."""
        return {self._job.layer.node}

    def begin(self, held: Tensor, generator: torch.Generator) -> None:
        """Start a batch: draw the output positions that count."""
        self._held = held
        self._rows = Rows.draw(self._spatial, self._wanted, generator)

    def original(self) -> tuple[dict[str, Watch], dict[str, Watch]]:
        """Return what to watch in the dense network: (reads, makes)."""
        return {self._job.layer.node: self._target}, {}

    def pruned(self) -> tuple[dict[str, Watch], dict[str, Watch]]:
        """Return what to watch in the pruned network: (reads, makes)."""
        return {self._job.layer.node: self._read}, {}

    def solve(self, current: Mapping[str, Tensor], strengths: Sequence[float]) -> dict[str, Tensor]:
        """Return the repaired weight: the dense one, each input replaced by what stands in for it."""
        job = self._job
        start = identity(job.layer.width // job.fold, self._kept.to(self._where))
        norms = job.column_norms(self._weight)
        mixing = solve(*self._sums.moments(), start, strengths, importance=norms)
        return {job.layer.weight: job.merge(current[job.layer.weight], job.recombined(self._weight, mixing))}

    def _target(self, args: tuple[Any, ...], result: None) -> None:
        rows = read_rows(self._job.layer, args[self._job.layer.position], self._rows)[self._job.groups]
        self._wish = self._by_channel(rows).clone()

    def _read(self, args: tuple[Any, ...], result: None) -> None:
        x = args[self._job.layer.position]
        x = x.index_select(self._job.layer.channel_dim, self._job.input_channels().to(x.device))
        rows = read_rows(self._job.layer, x, self._rows, groups=len(self._job.groups))
        self._sums.read(self._by_channel(rows), self._held)
        self._sums.made(0, self._wish)

    def _by_channel(self, rows: Tensor) -> Tensor:
        """Let every tap be a row of its own: (g, rows, c * taps) to (g, rows * taps, c)."""
        g, n, d = rows.shape
        taps = self._job.taps * self._job.fold
        return rows.view(g, n, d // taps, taps).mT.reshape(g, n * taps, d // taps)


def watches(
    given: Sequence[tuple[dict[str, Watch], dict[str, Watch]]],
) -> tuple[dict[str, Watch], dict[str, Watch]]:
    """Return what to watch for several regressions at once, (reads, makes): a node's callbacks are called in order."""
    merged: tuple[dict[str, list[Watch]], dict[str, list[Watch]]] = ({}, {})
    for pair in given:
        for target, wanted in zip(merged, pair, strict=True):
            for node, watch in wanted.items():
                target.setdefault(node, []).append(watch)
    reads, makes = ({node: _each(found) for node, found in one.items()} for one in merged)
    return reads, makes


def _each(callbacks: list[Watch]) -> Watch:
    def call(args: tuple[Any, ...], result: Any) -> None:
        for watch in callbacks:
            watch(args, result)

    return call
