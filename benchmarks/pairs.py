"""Times of calls in turns: ratios of neighbours, which what disturbs the machine disturbs alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

from dense_engines import Call

__all__ = ["Pair", "best", "paired"]


@dataclass(frozen=True)
class Pair:
    """Dense against sparse: seconds (medians), the median ratio with its quartiles, and dense against itself."""

    dense: float
    sparse: float
    speedup: float
    low: float
    high: float
    control: float


def best(engines: Mapping[str, Call], seconds: float = 0.5) -> str:
    """Return the fastest engine, by the medians of runs in turns."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    begin = time.perf_counter()
    while len(next(iter(times.values()))) < 5 or time.perf_counter() - begin < seconds * len(engines):
        for name, call in engines.items():
            times[name].append(_time(call))
    return min(times, key=lambda name: statistics.median(times[name]))


def paired(dense: Call, sparse: Call, rounds: int = 9, seconds: float = 0.6) -> Pair:
    """Time dense, sparse, dense (the control) in turns, the order turned round each time.

    Each turn repeats a call until a millisecond or so is filled: a fast call alone is mostly clock.
    """
    calls = [dense, sparse, dense]
    repeats = [max(1, round(1e-3 / _time(call, 3))) for call in calls]
    times: list[list[float]] = [[], [], []]
    begin = time.perf_counter()
    while len(times[0]) < rounds or time.perf_counter() - begin < seconds:
        for i in (0, 1, 2) if len(times[0]) % 2 else (2, 1, 0):
            times[i].append(_time(calls[i], repeats[i]))
    # The dense runs stand on both sides of the sparse one.
    ratios = [(a + b) / 2 / s for a, s, b in zip(*times, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Pair(
        dense=statistics.median(times[0]), sparse=statistics.median(times[1]), speedup=statistics.median(ratios),
        low=low, high=high, control=statistics.median(a / b for a, b in zip(times[0], times[2], strict=True)),
    )  # fmt: skip


def _time(call: Call, repeats: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
