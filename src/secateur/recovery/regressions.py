"""Regressions of one layer, summed while the dense and the pruned network run side by side.

`OutputRegression` solves the layer's weights over whole patches towards what its output should be;
`InputRegression` solves how the inputs that are left stand in for all inputs, the same at every tap, where patches
would need too much memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.graph import Graph
from secateur.ground.devices import moments_device, onto, single
from secateur.ground.errors import CalibrationError
from secateur.ground.processes import summed
from secateur.statistics.forward import Watch
from secateur.statistics.outlets import affine
from secateur.statistics.patches import Rows, output_rows, read_rows, sample_rows

from .jobs import Job
from .least_squares import Moments, identity, solve

__all__ = ["InputRegression", "OutputRegression", "Sampling", "Sums", "regression", "watches"]


@dataclass(frozen=True)
class Sampling:
    """How many output positions of a sample are looked at: `positions`, or more for `oversampling` rows an unknown."""

    samples: int
    positions: int
    oversampling: int

    def wanted(self, unknowns: int) -> int:
        """Return the number of positions for that many unknowns."""
        return max(self.positions, -(-self.oversampling * unknowns // max(self.samples, 1)))


def regression(
    graph: Graph,
    job: Job,
    dense: Mapping[str, Tensor],
    sampling: Sampling,
    memory: int,
    patches: bool,
    rectified: bool,
) -> OutputRegression | InputRegression:
    """Return the regression over patches if its moments fit into `memory` bytes, else that over channels."""
    fits = 2 * 8 * len(job.groups) * (job.width + 1) ** 2 <= memory
    if job.taps * job.fold == 1 or not job.inputs.shape[1] or (patches and fits):
        return OutputRegression(graph, job, dense, sampling, rectified)
    return InputRegression(job, dense, sampling)


Solver = Callable[[Moments, Moments, Moments, Tensor, Sequence[float], Tensor | None], Tensor]
"""Solves on the fit, held-out and whole moments from weights to start from, as `least_squares.solve` does."""


class Sums:
    """Sums of a regression with g groups, d inputs and m outputs: the fit and the held-out samples apart."""

    def __init__(self, module: str, g: int, d: int, m: int, device: torch.device) -> None:
        shapes = ((g, d, d), (g, m, d), (g, m))
        self._module = module
        self._sums = [
            [torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes] for _ in range(2)
        ]
        self._count = torch.zeros(2, dtype=torch.int64)

    def add(self, x: Tensor, y: Tensor, held: Tensor) -> None:
        """Add rows x (g, rows, d) and y (g, rows, m); `held` (samples,) says which samples are held out."""
        mask = sample_rows(held, x.shape[1]).to(x.device)
        x, y = single(x), single(y)
        for i, rows in enumerate((~mask, mask)):
            if not bool(rows.any()):
                continue
            xs, ys = (x, y) if bool(rows.all()) else (x[:, rows], y[:, rows])
            for total, part in zip(
                self._sums[i], (xs.mT @ xs, ys.mT @ xs, (onto(ys, self._sums[0][0]) ** 2).sum(1)), strict=True
            ):
                total += onto(part, total)
            self._count[i] += rows.sum().cpu()

    def moments(self) -> tuple[Moments, Moments, Moments]:
        """Return fit, held-out and whole moments over all processes; of two parts with one empty, the other is all."""
        totals = [[summed(t) for t in sums] for sums in self._sums]
        if not all(bool(torch.isfinite(t).all()) for sums in totals for t in sums):
            raise CalibrationError(
                f"Activations at {self._module} are not finite on the calibration data: check the inputs' "
                "preprocessing, and that the dense model gives finite outputs on them."
            )
        fit, held = (
            Moments(xx / max(n, 1), yx / max(n, 1), yy / max(n, 1), n)
            for (xx, yx, yy), n in zip(totals, summed(self._count).tolist(), strict=True)
        )
        if not held.count or not fit.count:
            fit = held = fit if fit.count else held
            return fit, held, fit
        return fit, held, fit.joined(held)


class OutputRegression:
    """Least squares of what a layer is to make, on the patches that it reads.

    What counts is the value at the end of its outlet (the residual sum, the BatchNorm's output or its own). With
    `rectified`, where only a ReLU reads that value, wishes below zero are met by anything below zero: the wish is
    then what the pruned network has there already, at most zero (a majorisation step of that one-sided error).
    """

    def __init__(
        self, graph: Graph, job: Job, dense: Mapping[str, Tensor], sampling: Sampling, rectified: bool
    ) -> None:
        self._job = job
        self._rectified = rectified and job.outlet.rectified
        g, m = job.outputs.shape
        self._affine = affine(job.outlet.batch_norm, graph, dense)
        # A BatchNorm that multiplies by zero does not show what came in: such outputs keep their weights.
        where = dense[job.layer.weight].device
        self._unseen = torch.zeros(g, m, dtype=torch.bool, device=where)
        if self._affine is not None:
            scale = self._affine.scale.abs()
            self._unseen = (scale <= 1e-6 * scale.max())[job.channels()].view(g, m)
        self._bias = (
            dense[job.layer.bias][job.channels()].view(g, 1, m) if job.layer.bias is not None else None
        )
        self._spatial = math.prod(job.layer.positions)
        self._wanted = sampling.wanted(job.width)
        self._sums = Sums(
            job.layer.module, g, job.width + (job.intercept is not None), m, moments_device(where)
        )

    def begin(self, held: Tensor, generator: torch.Generator) -> None:
        """Start a batch: draw the output positions that count."""
        self._held = held
        self._rows = Rows.draw(self._spatial, self._wanted, generator)

    def original(self) -> tuple[dict[str, Watch], dict[str, Watch]]:
        """Return what to watch in the dense network: (reads, makes)."""
        return {}, {self._job.outlet.end: self._target}

    def pruned(self) -> tuple[dict[str, Watch], dict[str, Watch]]:
        """Return what to watch in the pruned network: (reads, makes)."""
        reads: dict[str, Watch] = {self._job.layer.node: self._read}
        if self._job.outlet.join is not None:
            reads[self._job.outlet.join] = self._other
        return reads, {self._job.outlet.end: self._end}

    def solve(
        self,
        current: Mapping[str, Tensor],
        strengths: Sequence[float],
        under: Callable[[Tensor], Solver] | None = None,
    ) -> dict[str, Tensor]:
        """Return the repaired tensors in the full shapes; `under` makes the solver for the weights to start from."""
        job = self._job
        weight = current[job.layer.weight]
        start = job.split(weight)
        if job.intercept is not None:
            start = torch.cat([start, start.new_zeros(*start.shape[:2], 1)], 2)
        solver = solve if under is None else under(start)
        solved = solver(*self._sums.moments(), start, strengths, self._unseen.to(start.device))
        if job.intercept is None:
            return {job.layer.weight: job.merge(weight, solved)}
        value = current[job.intercept].clone()
        sign = -1 if job.outlet.batch_norm is not None else 1
        value[job.channels()] += onto(sign * solved[:, :, -1].reshape(-1), value)
        return {job.intercept: value, job.layer.weight: job.merge(weight, solved[:, :, :-1])}

    def _target(self, args: tuple[Any, ...], result: Tensor) -> None:
        self._wish = self._left(output_rows(self._job.layer, result, self._rows)).clone()

    def _read(self, args: tuple[Any, ...], result: None) -> None:
        x = args[self._job.layer.position]
        x = x.index_select(self._job.layer.channel_dim, self._job.input_channels().to(x.device))
        self._x = read_rows(self._job.layer, x, self._rows, groups=len(self._job.groups))

    def _other(self, args: tuple[Any, ...], result: None) -> None:
        other = output_rows(self._job.layer, args[self._job.outlet.operand], self._rows)
        self._rest = self._left(other).clone()  # the sum may be made in place

    def _end(self, args: tuple[Any, ...], result: Tensor) -> None:
        """From the wish at the end of the outlet back to the layer: ReLU, other summand, BatchNorm, bias."""
        job, y = self._job, self._wish
        if self._rectified:
            found = self._left(output_rows(job.layer, result, self._rows))
            y = torch.where(y > 0, y, found.clamp_max(0))
        if job.outlet.join is not None:
            y = y - self._rest
        if self._affine is not None:
            g, m = job.outputs.shape
            scale, shift = (v[job.channels()].view(g, 1, m) for v in (self._affine.scale, self._affine.shift))
            y = (y - shift) / torch.where(self._unseen[:, None], torch.ones_like(scale), scale)
        if self._bias is not None:
            y = y - self._bias
        x = self._x
        if job.intercept is not None:
            x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2)
        self._sums.add(x, y, self._held)

    def _left(self, rows: Tensor) -> Tensor:
        """Keep the outputs that are left, (g, rows, m)."""
        return rows[self._job.groups[:, None], :, self._job.outputs].movedim(1, 2)


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
            job.layer.width // job.fold,
            self._where,
        )

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
        self._sums.add(self._by_channel(rows), self._wish, self._held)

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
