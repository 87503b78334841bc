"""Timers: where a latency budget gets its milliseconds from. Another one may ask another device."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from secateur.ground.inputs import Example
from secateur.ground.progress import track

from .environment import environment
from .latency import interleaved
from .operation import Operation, runnable
from .store import Conditions, cache_folder, read_times, write_times

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
        here = environment()
        conditions = Conditions(here.cpu, here.torch, here.threads, batch)
        known = read_times(self.folder, conditions)
        missing = [o for o in dict.fromkeys(operations) if o.key not in known]
        for group in track(_together(missing), "timing layers"):
            known |= {o.key: ms for o, ms in zip(group, self._in_turns(group), strict=True)}
        if missing:
            try:
                write_times(self.folder, conditions, {o.key: known[o.key] for o in missing})
            except OSError as error:
                warnings.warn(f"Times cannot be kept in {self.folder}: {error}", stacklevel=2)
        return {o: known[o.key] for o in operations}

    def models(self, models: Sequence[nn.Module], inputs: Example) -> Sequence[float]:
        """Return the median milliseconds of each model, run in turns."""
        times = interleaved(models, inputs, self.rounds, self.model_seconds, 3, self.clock)
        return [statistics.median(t) for t in times]

    def _in_turns(self, operations: Sequence[Operation]) -> list[float]:
        """Time operations in turns: what disturbs one disturbs all, and none finds its weights in the cache."""
        calls = [runnable(o) for o in operations]
        times: list[list[float]] = [[] for _ in calls]
        with torch.inference_mode():
            for call in calls:
                call()
            begin, enough = self.clock(), self.seconds * len(calls)
            while len(times[0]) < self.runs or (len(times[0]) < 200 and self.clock() - begin < enough):
                for call, taken in zip(calls, times, strict=True):
                    start = self.clock()
                    call()
                    taken.append(1000 * (self.clock() - start))
        return [statistics.median(t) for t in times]


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
