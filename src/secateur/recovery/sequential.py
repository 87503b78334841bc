"""Sequential recovery: front to back, every touched layer is solved on what the pruned network feeds it.

The pruned network is the traced program with masked weights in the full shapes (masked = shrunk), so no surgery is
needed in between. Layers are taken in a few sweeps over the calibration data; all layers of a sweep see what the
earlier sweeps have repaired.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import CalibrationError
from ..graph import Graph, Kept
from ..progress import track
from ..statistics.batches import Calibration
from ..statistics.collect import HELD_OUT, Statistics
from ..statistics.forward import Forward, Watch
from ..statistics.outlets import affine
from ..statistics.patches import Rows, output_rows, read_rows
from .jobs import Job, jobs, masked
from .least_squares import RIDGES, Moments, choose_ridge, ridge
from .schedule import schedule

__all__ = ["Sequential"]


@dataclass(frozen=True)
class Sequential:
    """Refit every convolution and linear layer that pruning touched, in order, towards the dense network.

    `sweeps` bounds the passes over the calibration data, that for the statistics included. A layer is solved over
    its k x k patches; where these need more than `memory` bytes of moments, over channels. Each layer sees
    `positions` output positions of a sample, and more where samples are few: at least `oversampling` rows for each
    unknown. With `producers`, layers that only lost outputs are refitted as well; with `residual`, the last layer
    of a branch aims at the dense network's sum minus the pruned network's shortcut.
    """

    sweeps: int = 8
    ridges: tuple[float, ...] = RIDGES
    producers: bool = True
    residual: bool = True
    patches: bool = True
    positions: int = 64
    oversampling: int = 20
    memory: int = 2 << 30

    def __call__(
        self, graph: Graph, kept: Kept, statistics: Statistics, calibration: Iterable[Any], seed: int = 0
    ) -> dict[str, Tensor]:
        """Return all tensors of the pruned network in the full shapes, the touched ones repaired."""
        dense, samples = statistics.tensors, statistics.samples
        current = masked(graph, dense, kept)
        work = jobs(graph, kept, self.producers, self.residual)
        batches = Calibration(calibration, graph.program)
        for number, stage in enumerate(schedule(graph, work, self.sweeps - 1)):
            sums = self._collect(graph, stage, dense, current, batches, samples, seed + number)
            for s in sums:
                current |= self._solve(s, current)
        return current

    def _collect(
        self,
        graph: Graph,
        stage: list[Job],
        dense: Mapping[str, Tensor],
        current: Mapping[str, Tensor],
        batches: Calibration,
        samples: int,
        seed: int,
    ) -> list[_Sums]:
        original, pruned = Forward(graph.program, dense), Forward(graph.program, current)
        sums = [_Sums(self, graph, job, dense, samples) for job in stage]
        generator = torch.Generator().manual_seed(seed)
        seen = 0
        for batch in track(batches, f"refitting {stage[0].layer.module} ... {stage[-1].layer.module}"):
            n = batches.samples(batch)
            held = (torch.arange(seen, seen + n) % HELD_OUT) == HELD_OUT - 1
            seen += n
            makes: dict[str, list[Watch]] = {}
            reads: dict[str, list[Watch]] = {}
            for s in sums:
                s.begin(held, generator)
                makes.setdefault(s.target_node, []).append(s.target)
                reads.setdefault(s.job.layer.node, []).append(s.read)
                if s.job.outlet.join is not None:
                    reads.setdefault(s.job.outlet.join, []).append(s.other)
            original.run(batch, {}, {k: _each(v) for k, v in makes.items()})
            pruned.run(batch, {k: _each(v) for k, v in reads.items()}, {})
        return sums

    def _solve(self, sums: _Sums, current: Mapping[str, Tensor]) -> dict[str, Tensor]:
        job, (fit, held) = sums.job, sums.moments()
        weight = current[job.layer.weight]
        start = job.split(weight)
        if job.intercept is not None:
            start = torch.cat([start, start.new_zeros(*start.shape[:2], 1)], 2)
        _, strengths = choose_ridge(fit, held, start, self.ridges)
        both = Moments(fit.xx + held.xx, fit.yx + held.yx, fit.yy + held.yy, fit.count + held.count)
        solved = start
        for strength in strengths[strengths.isfinite()].unique().tolist():
            chosen = (strengths == strength) & ~sums.unseen
            solved = torch.where(chosen[..., None], ridge(both, start, strength), solved)
        repaired = {}
        if job.intercept is not None:
            value = current[job.intercept].clone()
            sign = -1 if job.outlet.batch_norm is not None else 1
            value[job.channels()] += sign * solved[:, :, -1].reshape(-1).to(value.dtype)
            repaired[job.intercept] = value
            solved = solved[:, :, :-1]
        repaired[job.layer.weight] = job.merge(weight, solved)
        return repaired


def _each(watches: list[Watch]) -> Watch:
    def call(args: tuple[Any, ...], result: Any) -> None:
        for watch in watches:
            watch(args, result)

    return call


class _Sums:
    """Running sums of one job's regression, the fit and the held-out samples apart."""

    def __init__(
        self, options: Sequential, graph: Graph, job: Job, dense: Mapping[str, Tensor], samples: int
    ) -> None:
        self.job = job
        self.target_node = job.outlet.join or job.layer.node
        self._affine = affine(job.outlet.batch_norm, graph, dense) if job.outlet.join is not None else None
        self._bias = None
        if job.layer.bias is not None:
            self._bias = dense[job.layer.bias]
        spatial = math.prod(job.layer.positions)
        wanted = max(options.positions, -(-options.oversampling * job.width // max(samples, 1)))
        self._spatial, self._wanted = spatial, wanted
        d = job.width + (job.intercept is not None)
        g, m = job.outputs.shape
        self.unseen = torch.zeros(g, m, dtype=torch.bool)
        if self._affine is not None:  # a BatchNorm that multiplies by zero does not show what came in
            scale = self._affine.scale.abs()
            self.unseen = (scale <= 1e-6 * scale.max())[job.channels()].view(g, m)
        self._fit = [torch.zeros(g, d, d).double(), torch.zeros(g, m, d).double(), torch.zeros(g, m).double()]
        self._held = [t.clone() for t in self._fit]
        self._count = [0, 0]

    def begin(self, held: Tensor, generator: torch.Generator) -> None:
        self._rows = Rows.draw(self._spatial, self._wanted, generator)
        self._mask = held

    def target(self, args: tuple[Any, ...], result: Tensor) -> None:
        self._target = self._left(output_rows(self.job.layer, result, self._rows)).clone()

    def read(self, args: tuple[Any, ...], result: None) -> None:
        layer = self.job.layer
        x = args[0].index_select(layer.channel_dim, self.job.input_channels())
        self._x = read_rows(layer, x, self._rows, groups=len(self.job.groups))
        if self.job.outlet.join is None:
            self._add(self._target)

    def other(self, args: tuple[Any, ...], result: None) -> None:
        layer = self.job.layer
        rest = self._target - self._left(output_rows(layer, args[self.job.outlet.operand], self._rows))
        if self._affine is not None:
            g, m = self.job.outputs.shape
            channels = self.job.channels()
            scale, shift = self._affine.scale[channels].view(g, 1, m), self._affine.shift[channels].view(g, 1, m)
            rest = (rest - shift) / torch.where(self.unseen[:, None], torch.ones_like(scale), scale)
        self._add(rest)

    def _left(self, rows: Tensor) -> Tensor:
        """Keep the outputs that are left, (g, rows, m)."""
        return rows[self.job.groups[:, None], :, self.job.outputs].movedim(1, 2)

    def _add(self, y: Tensor) -> None:
        x = self._x
        if self._bias is not None:
            y = y - self._bias[self.job.channels()].view(len(x), 1, -1)
        if self.job.intercept is not None:
            x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2)
        held = self._mask.repeat_interleave(x.shape[1] // len(self._mask))
        for i, (sums, rows) in enumerate(((self._fit, ~held), (self._held, held))):
            xs, ys = x[:, rows], y[:, rows]
            sums[0] += (xs.mT @ xs).double()
            sums[1] += (ys.mT @ xs).double()
            sums[2] += (ys.double() ** 2).sum(1)
            self._count[i] += int(rows.sum())

    def moments(self) -> tuple[Moments, Moments]:
        if not all(torch.isfinite(t).all() for t in (*self._fit, *self._held)):
            raise CalibrationError(
                f"Activations at {self.job.layer.module} are not finite on the calibration data: check the inputs' "
                "preprocessing, and that the dense model gives finite outputs on them."
            )
        fit, held = (
            Moments(s[0] / max(n, 1), s[1] / max(n, 1), s[2] / max(n, 1), n)
            for s, n in zip((self._fit, self._held), self._count, strict=True)
        )
        if held.count == 0:
            held = fit
        return fit, held
