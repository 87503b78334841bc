"""Sequential recovery: front to back, every touched layer is solved on what the pruned network feeds it.

The pruned network is the traced program with masked weights in the full shapes (masked = shrunk), so no surgery is
needed in between. Batches wait in front of the layers that are solved, in both networks. Where they would need too
much memory, layers are taken in a few sweeps over the calibration data instead; all layers of a sweep see what the
earlier sweeps have repaired.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from secateur.graph import Graph, Kept
from secateur.statistics import Calibration, Statistics

from .batch_norm import re_estimated
from .forecast import announce, forecast
from .jobs import Job, jobs, masked
from .joint import Joint
from .least_squares import RIDGES, check_ridges
from .one_pass import OnePass
from .regressions import Regression, Sampling, regressions
from .schedule import schedule
from .stops import find_stops
from .sweeps import solve_in_sweeps
from .waiting import solve_at

__all__ = ["Sequential"]


@dataclass(frozen=True)
class Sequential:
    """Refit every convolution and linear layer that pruning touched, in order, towards the dense network.

    Each layer is solved once all before it are, while the calibration data wait in front of it in at most `waiting`
    bytes; where these do not suffice, several layers share a sweep from the inputs. `sweeps` bounds the passes over
    the data, that for the statistics included; a pass over a part counts for its share of the MACs. A layer is solved
    over its k x k patches; where their moments need more than `memory` bytes (or without `patches`), over channels.
    Each layer sees `positions` output positions of a sample, and more where samples are few: at least `oversampling`
    rows for each unknown. With `producers`, layers that only lost outputs are refitted as well; with `residual`, the
    last layer of a branch aims at the dense network's sum minus the pruned network's shortcut; with `batch_norm`,
    running statistics are re-estimated where that brings the outputs closer on held-out samples. Ridges pull towards
    the kept weights and are chosen, for each output, on held-out moments.

    With `joint`, all touched layers then move together, by linearised least squares on outputs and residual sums,
    where that brings the outputs closer on held-out samples: about half of the time again.
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
    oversampling: int = 40
    memory: int = 1 << 29
    waiting: int = 1 << 31
    joint: Joint | None = None

    def __post_init__(self) -> None:
        least = 2 + self.batch_norm
        if self.sweeps < least:
            what = "for statistics, to solve in" + (" and for batch_norm" if self.batch_norm else "")
            raise ValueError(f"sweeps={self.sweeps} must be at least {least}: one each {what}.")
        check_ridges(self.ridges)

    def __call__(
        self, graph: Graph, kept: Kept, statistics: Statistics, calibration: Iterable[Any], seed: int = 0
    ) -> dict[str, Tensor]:
        """Return all tensors of the pruned network in the full shapes, the touched ones repaired."""
        current = masked(graph, statistics.tensors, kept)
        if self.warm:
            current = OnePass(self.ridges)(graph, kept, statistics, calibration, seed)
        batches = Calibration.of(calibration, graph.program)
        sampling = Sampling(statistics.samples, self.positions, self.oversampling)
        dense = dict(statistics.tensors)

        def regress(some: Sequence[Job]) -> list[Regression]:
            return regressions(graph, some, dense, sampling, self.memory, self.patches, self.rectified)

        work = jobs(graph, kept, self.producers, self.residual)
        passes = self.sweeps - 1 - self.batch_norm
        if work:
            expected = forecast(graph, work, sampling, len(self.ridges))
            announce(expected, len(work), dense[work[0].layer.weight].device)
        stops = find_stops(graph, work, statistics.samples, passes, self.waiting)
        if stops is not None:
            current = solve_at(stops, graph, dense, current, batches, regress, self.ridges, seed)
        else:
            stages = schedule(graph, work, passes)
            current = solve_in_sweeps(stages, graph, dense, current, batches, regress, self.ridges, seed)
        if self.batch_norm and work:
            current = re_estimated(graph, current, batches)
        if self.joint is not None and work:
            current = self.joint(graph, kept, current, batches, work, seed)
        return current
