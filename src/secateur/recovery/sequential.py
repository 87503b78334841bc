"""Sequential recovery: front to back, every touched layer is solved on what the pruned network feeds it.

The pruned network is the traced program with masked weights in the full shapes (masked = shrunk), so no surgery is
needed in between. Layers are taken in a few sweeps over the calibration data; all layers of a sweep see what the
earlier sweeps have repaired.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from secateur.graph import Graph, Kept
from secateur.progress import track
from secateur.statistics import Calibration, Forward, Statistics
from secateur.statistics.forward import Watch
from secateur.statistics.reduce import in_step

from .batch_norm import re_estimated
from .jobs import jobs, masked
from .least_squares import RIDGES
from .one_pass import OnePass
from .regressions import InputRegression, OutputRegression, Sampling, regression
from .schedule import schedule

__all__ = ["Sequential", "sweep"]


@dataclass(frozen=True)
class Sequential:
    """Refit every convolution and linear layer that pruning touched, in order, towards the dense network.

    `sweeps` bounds the passes over the calibration data, that for the statistics included; a pass that ends at an
    early layer counts for its share of the MACs. A layer is solved over its k x k patches; where their moments need
    more than `memory` bytes (or without `patches`), over channels. Each layer sees `positions` output positions of a
    sample, and more where samples are few: at least `oversampling` rows for each unknown. With `producers`, layers
    that only lost outputs are refitted as well; with `residual`, the last layer of a branch aims at the dense
    network's sum minus the pruned network's shortcut; with `batch_norm`, running statistics are re-estimated where
    that brings the outputs closer on held-out samples. Ridges pull towards the kept weights and are chosen, for each
    output, on held-out moments.
    """

    sweeps: int = 8
    ridges: tuple[float, ...] = RIDGES
    producers: bool = True
    residual: bool = True
    patches: bool = True
    rectified: bool = True
    warm: bool = True
    batch_norm: bool = True
    positions: int = 64
    oversampling: int = 20
    memory: int = 1 << 29

    def __call__(
        self, graph: Graph, kept: Kept, statistics: Statistics, calibration: Iterable[Any], seed: int = 0
    ) -> dict[str, Tensor]:
        """Return all tensors of the pruned network in the full shapes, the touched ones repaired."""
        current = masked(graph, statistics.tensors, kept)
        if self.warm:
            current = OnePass(self.ridges)(graph, kept, statistics, calibration, seed)
        batches = Calibration(calibration, graph.program)
        sampling = Sampling(statistics.samples, self.positions, self.oversampling)
        stages = schedule(
            graph, jobs(graph, kept, self.producers, self.residual), self.sweeps - 1 - self.batch_norm
        )
        for number, stage in enumerate(stages):
            regressions = [
                regression(
                    graph, job, statistics.tensors, sampling, self.memory, self.patches, self.rectified
                )
                for job in stage
            ]
            networks = Forward(graph.program, statistics.tensors), Forward(graph.program, current)
            label = f"refitting {stage[0].layer.module} ({number + 1} of {len(stages)})"
            sweep(networks, regressions, batches, seed + number, label)
            for solved in regressions:
                current |= solved.solve(current, self.ridges)
        return re_estimated(graph, current, batches) if self.batch_norm and stages else current


def sweep(
    networks: tuple[Forward, Forward],
    regressions: Sequence[OutputRegression | InputRegression],
    batches: Calibration,
    seed: int,
    label: str,
) -> None:
    """Run the original and the pruned network side by side over the data, watched by regressions."""
    original, pruned = networks
    watched = _merged([r.original() for r in regressions]), _merged([r.pruned() for r in regressions])
    with in_step():
        for batch, held in track(batches.held_out(), label):
            generator = batches.generator(batch, seed)
            for r in regressions:
                r.begin(held, generator)
            original.run(batch, *watched[0])
            pruned.run(batch, *watched[1])


def _merged(
    watches: list[tuple[dict[str, Watch], dict[str, Watch]]],
) -> tuple[dict[str, Watch], dict[str, Watch]]:
    """Let every callback of a node be called, in order."""
    merged: tuple[dict[str, list[Watch]], dict[str, list[Watch]]] = ({}, {})
    for pair in watches:
        for target, given in zip(merged, pair, strict=True):
            for node, watch in given.items():
                target.setdefault(node, []).append(watch)
    reads, makes = ({node: _each(found) for node, found in one.items()} for one in merged)
    return reads, makes


def _each(watches: list[Watch]) -> Watch:
    def call(args: tuple[Any, ...], result: Any) -> None:
        for watch in watches:
            watch(args, result)

    return call
