"""Timers: where a latency budget gets its milliseconds from. Another one may ask another device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from secateur.ground.inputs import Example
from secateur.ground.progress import track

from .latency import in_turns, interleaved
from .operation import Operation, runnable
from .store import Times, cache_folder

__all__ = ["Stopwatch", "Timer"]

MAX_ELEMENTS = 2**26  # of the tensors of operations that are timed in turns


@runtime_checkable
class Timer(Protocol):
    """Says how long operations and models take, with the threads that torch has now."""

    def operations(self, operations: Sequence[Operation], batch: int) -> Mapping[Operation, float]:
        """Return the milliseconds of each operation of a model that is run on batches of that size."""
        ...

    def models(self, models: Sequence[nn.Module], inputs: Example) -> Sequence[float]:
        """Return the median milliseconds of each model on the inputs, run in turns."""
        ...


@dataclass(frozen=True)
class Stopwatch:
    """Times on this machine: medians of runs in turns. Those of operations are kept in a folder and not taken again.

    Operations of one layer are timed together, at least `runs` times each and until `seconds` have passed for each;
    models at least `rounds` times and for `model_seconds` together.
    """

    folder: Path = field(default_factory=cache_folder)
    runs: int = 5
    seconds: float = 0.02
    rounds: int = 20
    model_seconds: float = 2.0
    clock: Callable[[], float] = time.perf_counter

    def operations(self, operations: Sequence[Operation], batch: int) -> Mapping[Operation, float]:
        """Return the milliseconds of each operation, from the folder where they are known."""
        times = Times.here(self.folder, batch, any(o.device != "cpu" for o in operations))
        missing = [o for o in dict.fromkeys(operations) if o.key not in times.known]
        for group in track(_together(missing), "timing layers"):
            times.of({o: o.key for o in group}, partial(self._in_turns, group))
        times.keep()
        return {o: times.known[o.key] for o in operations}

    def models(self, models: Sequence[nn.Module], inputs: Example) -> Sequence[float]:
        """Return the median milliseconds of each model, run in turns."""
        times = interleaved(models, inputs, self.rounds, self.model_seconds, 3, self.clock)
        return [statistics.median(t) for t in times]

    def _in_turns(self, operations: Sequence[Operation]) -> dict[Operation, float]:
        seconds = self.seconds * len(operations)
        calls, device = [runnable(o) for o in operations], torch.device(operations[0].device)
        times = in_turns(calls, self.runs, seconds, most=200, clock=self.clock, device=device)
        return dict(zip(operations, map(statistics.median, times), strict=True))


def _together(operations: Sequence[Operation]) -> list[list[Operation]]:
    """Return the operations by layer, in pieces that fit into memory."""
    groups: list[list[Operation]] = []
    for _, alike in groupby(operations, key=lambda o: (o.op, o.rows, o.size, o.kernel, o.stride)):
        room = 0
        for operation in alike:
            if room < operation.elements:
                groups.append([])
                room = MAX_ELEMENTS
            groups[-1].append(operation)
            room -= operation.elements
    return groups
