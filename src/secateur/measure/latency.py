"""Time two models against each other, so that what disturbs the machine disturbs both."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from secateur.ground.inputs import Example, Inputs

from .mode import evaluating, using_threads

__all__ = ["Comparison", "Latency", "Timing", "compare_latency", "in_turns", "interleaved", "time_model"]


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


@dataclass(frozen=True)
class Timing:
    """One model, timed alone."""

    latency: Latency
    rounds: int
    batch: int
    threads: int


def compare_latency(
    dense: nn.Module,
    pruned: nn.Module,
    inputs: Example,
    *,
    rounds: int = 30,
    seconds: float = 2.0,
    warmup: int = 3,
    threads: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Run two models in turns, at least `rounds` times each and for at least `seconds` together.

    The one that goes first changes from round to round. `threads` is torch's number of intra-op threads for
    these runs (None: as it is); the batch is the first dimension of the first tensor among `inputs`.

    Raises:
        ValueError: fewer than two rounds.
    """
    with using_threads(threads) as used:
        times = interleaved((dense, pruned), inputs, rounds, seconds, warmup, clock)
    low, median, high = _quartiles([p / d for d, p in zip(*times, strict=True)])
    return Comparison(
        dense=_latency(times[0]),
        pruned=_latency(times[1]),
        ratio=median,
        ratio_low=low,
        ratio_high=high,
        rounds=len(times[0]),
        batch=Inputs.of(inputs).batch,
        threads=used,
    )


def time_model(
    model: nn.Module,
    inputs: Example,
    *,
    rounds: int = 30,
    seconds: float = 2.0,
    warmup: int = 3,
    threads: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time one model alone; the arguments are those of `compare_latency`.

    Raises:
        ValueError: fewer than two rounds.
    """
    with using_threads(threads) as used:
        (times,) = interleaved((model,), inputs, rounds, seconds, warmup, clock)
    return Timing(_latency(times), rounds=len(times), batch=Inputs.of(inputs).batch, threads=used)


def interleaved(
    models: Sequence[nn.Module],
    inputs: Example,
    rounds: int,
    seconds: float,
    warmup: int,
    clock: Callable[[], float],
) -> list[list[float]]:
    """Return the milliseconds of each run of each model, in turns; the other arguments are `compare_latency`'s."""
    if rounds < 2:
        raise ValueError(f"quartiles need at least two rounds, not {rounds}")
    calls = [partial(Inputs.of(inputs), model) for model in models]
    with evaluating(*models):
        return in_turns(calls, rounds, seconds, warmup=warmup, turning=True, clock=clock)


@torch.inference_mode()
def in_turns(
    calls: Sequence[Callable[[], object]],
    rounds: int,
    seconds: float,
    *,
    most: float = math.inf,
    warmup: int = 1,
    turning: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Return the milliseconds of each run of each call, in turns: what disturbs one disturbs all.

    There are at least `rounds` rounds, and more until `seconds` have passed, but no more than `most` for that. Every
    second round goes backwards if it is `turning`; else no call finds its weights in the cache.
    """
    times: list[list[float]] = [[] for _ in calls]
    for call in [*calls] * warmup:
        call()
    begin = clock()
    while len(times[0]) < rounds or (len(times[0]) < most and clock() - begin < seconds):
        order = list(zip(calls, times, strict=True))
        for call, taken in reversed(order) if turning and len(times[0]) % 2 else order:
            start = clock()
            call()
            taken.append(1000 * (clock() - start))
    return times


def _latency(times: list[float]) -> Latency:
    low, median, high = _quartiles(times)
    return Latency(median, low, high)


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, statistics.median(values), high
