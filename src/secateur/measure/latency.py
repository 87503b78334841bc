"""Time two models against each other, so that what disturbs the machine disturbs both."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from secateur.ground.inputs import Example, Inputs

from .clock import milliseconds
from .mode import evaluating, using_threads

__all__ = [
    "Comparison",
    "Latency",
    "Timing",
    "compare_calls",
    "compare_latency",
    "in_turns",
    "interleaved",
    "time_model",
]


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
    return _compared(times, Inputs.of(inputs).batch, used)


def compare_calls(
    dense: Callable[[], object],
    pruned: Callable[[], object],
    *,
    batch: int,
    rounds: int = 30,
    seconds: float = 2.0,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Time two calls in turns, as `compare_latency` does models: of another engine, which has its own.

    Raises:
        ValueError: fewer than two rounds.
    """
    times = _turning((dense, pruned), rounds, seconds, warmup, clock)
    return _compared(times, batch, torch.get_num_threads())


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
    given = Inputs.of(inputs).beside(models[0])
    device = next((x.device for x in given.leaves if isinstance(x, Tensor)), None)
    calls = [partial(given, model) for model in models]
    with evaluating(*models):
        return _turning(calls, rounds, seconds, warmup, clock, device)


def _turning(
    calls: Sequence[Callable[[], object]],
    rounds: int,
    seconds: float,
    warmup: int,
    clock: Callable[[], float],
    device: torch.device | None = None,
) -> list[list[float]]:
    if rounds < 2:
        raise ValueError(f"quartiles need at least two rounds, not {rounds}")
    return in_turns(calls, rounds, seconds, warmup=warmup, turning=True, clock=clock, device=device)


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
    device: torch.device | None = None,
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
            taken.append(milliseconds(call, device, clock))
    return times


def _compared(times: list[list[float]], batch: int, threads: int) -> Comparison:
    low, median, high = _quartiles([p / d for d, p in zip(*times, strict=True)])
    return Comparison(
        dense=_latency(times[0]),
        pruned=_latency(times[1]),
        ratio=median,
        ratio_low=low,
        ratio_high=high,
        rounds=len(times[0]),
        batch=batch,
        threads=threads,
    )


def _latency(times: list[float]) -> Latency:
    low, median, high = _quartiles(times)
    return Latency(median, low, high)


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, statistics.median(values), high
