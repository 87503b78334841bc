"""Solving layers stop by stop, while the batches wait in between (see `stops`)."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.graph import Graph
from secateur.graph.program import references
from secateur.ground.processes import in_step
from secateur.ground.progress import track
from secateur.statistics import Calibration, Forward
from secateur.statistics.forward import Paused

from .jobs import Job
from .regressions import Regression, watches
from .stops import Stop

__all__ = ["copied_paused", "solve_at"]


@dataclass(frozen=True)
class _Batch:
    """A batch on its way through the dense and the pruned network."""

    original: Paused
    pruned: Paused
    held: Tensor
    seed: int


def solve_at(
    stops: Sequence[Stop],
    graph: Graph,
    dense: Mapping[str, Tensor],
    current: dict[str, Tensor],
    batches: Calibration,
    regress: Callable[[Sequence[Job]], list[Regression]],
    ridges: Sequence[float],
    seed: int,
) -> dict[str, Tensor]:
    """Return `current` with the layers of all stops solved, each on what the layers before it have become."""
    original = Forward(graph.program, dense)
    place = {name: i for i, name in enumerate(original.order)}
    waiting = deque(_arriving(batches, seed))
    for number, stop in enumerate(stops):
        following = stops[number + 1].before if number + 1 < len(stops) else stop.end
        # The dense network stays as it is, so that its batches can go on to the next stop at once.
        onward = following if place[following] >= place[stop.end] else None
        label = f"refitting {stop.jobs[0].layer.module} ({number + 1} of {len(stops)})"
        networks = original, Forward(graph.program, current)
        found = regress(stop.jobs)
        waiting = _watched(graph, stop, networks, waiting, found, onward, number, label)
        while found:  # moments are gone once they are solved
            current = current | found.pop(0).solve(current, ridges)
    return current


def _watched(
    graph: Graph,
    stop: Stop,
    networks: tuple[Forward, Forward],
    waiting: deque[_Batch],
    regressions: Sequence[Regression],
    onward: str | None,
    number: int,
    label: str,
) -> deque[_Batch]:
    """Run all batches through a stop, watched; return them as they then wait, the dense network's `onward` if given."""
    original, pruned = networks
    reads, makes = watches([r.original() for r in regressions])
    reads_pruned, makes_pruned = watches([r.pruned() for r in regressions])
    without = _unneeded(graph, stop, regressions)
    behind: deque[_Batch] = deque()
    with in_step():
        for batch in track(_taken(waiting), label, total=len(waiting)):
            dense_here = original.advance(batch.original, {}, {}, stop.before)
            here = pruned.advance(batch.pruned, {}, {}, stop.before)
            generator = torch.Generator().manual_seed((batch.seed + number) % 2**63)
            for r in regressions:
                r.begin(batch.held, generator)
            if onward is not None:
                dense_here = original.advance(dense_here, reads, makes, onward)
            else:
                original.advance(copied_paused(dense_here), reads, makes, stop.end)
            pruned.advance(copied_paused(here), reads_pruned, makes_pruned, stop.end, without)
            behind.append(replace(batch, original=dense_here, pruned=here))
    return behind


def _arriving(batches: Calibration, seed: int) -> Iterable[_Batch]:
    for inputs, held in batches.held_out():
        yield _Batch(Paused(inputs), Paused(inputs), held, batches.generator(inputs, seed).initial_seed())


def _unneeded(graph: Graph, stop: Stop, regressions: Sequence[Regression]) -> set[str]:
    """Return the layers that the pruned network can leave out here: they run once they are solved.

    None where what follows from them is read by another of the stop's regressions.
    """
    layers = {node for r in regressions for node in r.unneeded}
    after = set(layers)
    for node in graph.program.nodes:
        if after.intersection(references((node.args, node.kwargs))):
            after.add(node.name)
    read = {job.layer.value for job in stop.jobs}
    for job in stop.jobs:
        join = job.outlet.join
        if join is not None:
            other = graph.program.node(join).args[job.outlet.operand]
            read |= set(references((other,)))
        if job.layer.node not in layers:
            read.add(job.outlet.end)
    return set() if read & after else layers


def _taken(waiting: deque[_Batch]) -> Iterable[_Batch]:
    """Yield the batches, so that what waited is forgotten as soon as it has gone on."""
    while waiting:
        yield waiting.popleft()


def copied_paused(paused: Paused) -> Paused:
    """Return a copy that may go on while the other waits: calls that write in place would change what both hold.

    Values that share memory do so in the copy.
    """
    return replace(paused, values=copy.deepcopy(dict(paused.values)))
