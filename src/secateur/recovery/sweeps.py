"""Solving layers in passes from the inputs, several in each (see `schedule`): where batches cannot wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from secateur.graph import Graph
from secateur.ground.processes import in_step
from secateur.ground.progress import track
from secateur.statistics import Calibration, Forward

from .jobs import Job
from .regressions import Regression, watches

__all__ = ["solve_in_sweeps", "sweep"]


def solve_in_sweeps(
    stages: Sequence[Sequence[Job]],
    graph: Graph,
    dense: Mapping[str, Tensor],
    current: dict[str, Tensor],
    batches: Calibration,
    regress: Callable[[Sequence[Job]], list[Regression]],
    ridges: Sequence[float],
    seed: int,
) -> dict[str, Tensor]:
    """Return `current` with the layers of all stages solved, each on what earlier stages have left of the network."""
    original = Forward(graph.program, dense)
    for number, stage in enumerate(stages):
        regressions = regress(stage)
        label = f"refitting {stage[0].layer.module} ({number + 1} of {len(stages)})"
        networks = original, Forward(graph.program, current)
        sweep(networks, regressions, batches, seed + number, label)
        for solved in regressions:
            current = current | solved.solve(current, ridges)
    return current


def sweep(
    networks: tuple[Forward, Forward],
    regressions: Sequence[Regression],
    batches: Calibration,
    seed: int,
    label: str,
) -> None:
    """Run the original and the pruned network side by side over the data, watched by regressions."""
    original, pruned = networks
    watched = watches([r.original() for r in regressions]), watches([r.pruned() for r in regressions])
    with in_step():
        for batch, held in track(batches.held_out(), label):
            generator = batches.generator(batch, seed)
            for r in regressions:
                r.begin(held, generator)
            original.run(batch, *watched[0])
            pruned.run(batch, *watched[1])
