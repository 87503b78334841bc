"""Time two models against each other, so that what disturbs the machine disturbs both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .mode import evaluating

__all__ = ["Comparison", "Latency", "compare_latency"]


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass over one batch: median and quartiles."""

    median_ms: float
    low_ms: float  # first quartile
    high_ms: float  # third quartile


@dataclass(frozen=True)
class Comparison:
    """Dense and pruned, timed in turns; ``ratio`` is the median of pruned / dense over the pairs of runs."""

    dense: Latency
    pruned: Latency
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int
    batch: int
    threads: int


def compare_latency(
    dense: nn.Module,
    pruned: nn.Module,
    inputs: Sequence[Any],
    *,
    rounds: int = 30,
    seconds: float = 2.0,
    warmup: int = 3,
    threads: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Run the two models in turns, at least `rounds` times each and for at least `seconds` together.

    The one that goes first changes from round to round. `threads` is torch's number of intra-op threads for
    these runs (None: as it is); the batch is the first dimension of the first tensor among `inputs`.

    Raises:
        ValueError: fewer than two rounds.
    """
    if rounds < 2:
        raise ValueError(f"quartiles need at least two rounds, not {rounds}")
    with evaluating(dense, pruned), torch.inference_mode(), _threads(threads) as used:
        for _ in range(warmup):
            dense(*inputs)
            pruned(*inputs)
        times: tuple[list[float], list[float]] = ([], [])
        begin = clock()
        while len(times[0]) < rounds or clock() - begin < seconds:
            first = len(times[0]) % 2
            for which in (first, 1 - first):
                model = (dense, pruned)[which]
                start = clock()
                model(*inputs)
                times[which].append(1000 * (clock() - start))
    low, median, high = _quartiles([p / d for d, p in zip(*times, strict=True)])
    return Comparison(
        dense=_latency(times[0]),
        pruned=_latency(times[1]),
        ratio=median,
        ratio_low=low,
        ratio_high=high,
        rounds=len(times[0]),
        batch=_batch(inputs),
        threads=used,
    )


def _latency(times: list[float]) -> Latency:
    low, median, high = _quartiles(times)
    return Latency(median, low, high)


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, statistics.median(values), high


def _batch(inputs: Sequence[Any]) -> int:
    return next((x.shape[0] for x in inputs if isinstance(x, Tensor) and x.dim()), 1)


@contextmanager
def _threads(number: int | None) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
