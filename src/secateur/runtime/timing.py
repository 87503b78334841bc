"""Times of calls in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import TypeVar

from secateur.measure.latency import in_turns

__all__ = ["medians"]

RUNS, SECONDS = 7, 0.03
K = TypeVar("K")


def medians(calls: Mapping[K, Callable[[], object]]) -> dict[K, float]:
    """Return the median milliseconds of each call, run in turns."""
    times = in_turns([*calls.values()], RUNS, SECONDS * len(calls), most=200)
    return dict(zip(calls, map(statistics.median, times), strict=True))
