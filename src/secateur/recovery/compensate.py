"""Compensation of micro-structures: front to back, what blocks are left is solved on what the network feeds it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.blocks import BlockPattern
from secateur.graph import Graph, Layer
from secateur.ground.errors import CalibrationError
from secateur.ground.processes import in_step, summed
from secateur.statistics import Calibration, Forward
from secateur.statistics.outlets import outlet, running_mean

from .batch_norm import re_estimated
from .in_blocks import InBlocks
from .jobs import Job, aimed
from .least_squares import RIDGES, check_ridges
from .regressions import OutputRegression, Sampling
from .schedule import schedule
from .sweeps import sweep

__all__ = ["Compensate"]


@dataclass(frozen=True)
class Compensate:
    """Solve kept weights and unified magnitudes by least squares, each layer towards the dense network's outputs.

    Layers are taken in `sweeps` passes over the calibration data at most (see `Sequential`, with which the other
    options are shared); in each pass they read what the layers of the passes before now make. One sweep solves all
    of them on the dense network's inputs. Layers whose moments need more than `memory` bytes, and weights that
    several calls share, stay projected.
    """

    sweeps: int = 8
    ridges: tuple[float, ...] = RIDGES
    residual: bool = True
    rectified: bool = True
    batch_norm: bool = True
    positions: int = 64
    oversampling: int = 20
    memory: int = 1 << 29

    def __post_init__(self) -> None:
        if self.sweeps < 1:
            raise ValueError(f"sweeps={self.sweeps} must be at least 1.")
        check_ridges(self.ridges)

    def __call__(
        self,
        graph: Graph,
        patterns: Mapping[str, BlockPattern],
        dense: Mapping[str, Tensor],
        calibration: Iterable[Any],
        seed: int = 0,
    ) -> dict[str, Tensor]:
        """Return all tensors of the network with patterns; `dense` are those that it is to imitate.

        Raises:
            CalibrationError: the data are empty, or do not fit the example.
        """
        projected = {name: pattern.project(dense[name]) for name, pattern in patterns.items()}
        batches = Calibration.of(calibration, graph.program)
        samples = counted(batches)
        jobs = self.jobs(graph, patterns)
        current = dict(dense)
        for name in patterns.keys() - {job.layer.weight for job in jobs}:
            current[name] = projected[name]
        original = Forward(graph.program, dense)
        stages = schedule(graph, jobs, max(self.sweeps - self.batch_norm, 1)) if self.sweeps > 1 else [jobs]
        for number, stage in enumerate(stages):
            regressions = self.gathered(
                graph, stage, dense, current, batches, samples, seed + number, original
            )
            for job, regression in zip(stage, regressions):
                current |= self.solved(job, regression, patterns[job.layer.weight], current)
        return re_estimated(graph, current, batches) if self.batch_norm else current

    def gathered(
        self,
        graph: Graph,
        stage: list[Job],
        dense: Mapping[str, Tensor],
        current: Mapping[str, Tensor],
        batches: Calibration,
        samples: int,
        seed: int = 0,
        original: Forward | None = None,
    ) -> list[OutputRegression]:
        """Return the summed regressions of some layers, which know nothing of a pattern yet."""
        sampling = Sampling(samples, self.positions, self.oversampling)
        regressions = [OutputRegression(graph, [job], dense, sampling, self.rectified) for job in stage]
        networks = original or Forward(graph.program, dense), Forward(graph.program, current)
        if stage:
            sweep(networks, regressions, batches, seed, f"compensating {stage[0].layer.module}")
        return regressions

    def solved(
        self, job: Job, regression: OutputRegression, pattern: BlockPattern, current: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the layer's tensors under a pattern."""
        name = job.layer.weight
        start = dict(current) | {name: pattern.project(current[name])}
        found = regression.solve(start, self.ridges, lambda split: InBlocks(job, pattern, split))
        # In the weight's own type a block has one magnitude again.
        return found | {name: pattern.project(found[name])}

    def jobs(self, graph: Graph, weights: Container[str]) -> list[Job]:
        """Return the layers that can be solved, front to back, of those with such weights."""
        calls = [layer.weight for layer in graph.layers]
        found = [
            job(graph, layer)
            for layer in graph.layers
            if layer.weight in weights and calls.count(layer.weight) == 1
        ]
        fits = [j for j in found if 2 * 8 * len(j.groups) * (j.width + 1) ** 2 <= self.memory]
        return aimed(fits, self.residual)


def counted(batches: Calibration) -> int:
    """Return the number of samples over all processes."""
    with in_step():
        own = sum(batches.samples(flat) for flat in batches)
    total = int(summed(torch.tensor(own)))
    if not total:
        raise CalibrationError(
            "The calibration data are empty in every process: give at least one batch of inputs."
        )
    return total


def job(graph: Graph, layer: Layer) -> Job:
    """Return the job of a layer that lost neither inputs nor outputs."""
    out = outlet(graph, layer)
    constant = running_mean(out.batch_norm, graph) if out.batch_norm is not None else layer.bias
    g = layer.groups
    inputs = torch.arange(layer.width).expand(g, -1)
    outputs = torch.arange(layer.out_channels // g).expand(g, -1)
    return Job(layer, out, torch.arange(g), inputs, outputs, constant)
