"""Settling: the target that a table has to be given so that what is measured meets the budget."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["settle"]


def settle(
    attempt: Callable[[float], float],
    start: float,
    low: float,
    high: float,
    *,
    aim: float = 0.975,
    within: float = 0.015,
    steps: int = 8,
) -> float | None:
    """Return the target in [low, high] whose measured level is at most 1 and closest to `aim`; None if none is.

    `attempt` carries a target out and returns the level: what was measured, as a share of the limit, above 0. It
    grows with the target, but for noise. The search ends as soon as a level lies within `within` of the aim, or at
    the largest target if that meets the limit; else after so many steps. It is a secant search, held inside the
    bracket once there are levels on both sides of the aim, which is halved where two steps in turn fell on one side.

    >>> settle(lambda x: x**2 / 100, start=9.0, low=1.0, high=20.0)
    9.874208829065749
    """
    tried: dict[float, float] = {}
    target = min(max(start, low), high)
    while len(tried) < steps:
        level = tried[target] = attempt(target)
        if abs(level - aim) <= within or (target == high and level <= 1):
            return target
        target = min(max(_next(tried, aim), low), high)
        if target in tried:
            break
    if low not in tried and min(tried.values()) > 1:
        tried[low] = attempt(low)
    met = {target: abs(level - aim) for target, level in tried.items() if level <= 1}
    return min(met, key=lambda target: met[target]) if met else None


def _next(tried: dict[float, float], aim: float) -> float:
    """Return where the levels so far say that the aim is, by secants of the logarithms: exact for powers."""
    points = [(math.log(x), math.log(y / aim)) for x, y in tried.items()]
    last = points[-2:]
    below = max((p for p in points if p[1] <= 0), default=None)
    above = min((p for p in points if p[1] > 0), default=None)
    if below is not None and above is not None:
        (a, low), (b, high) = below, above
        one_side = len(points) > 2 and len({y <= 0 for _, y in last}) == 1
        if one_side or a >= b:  # noise has turned them round
            return math.exp((a + b) / 2)
        return math.exp(a + (b - a) * min(max(low / (low - high), 0.05), 0.95))
    x, y = last[-1]
    slope = 1.0
    if len(last) == 2 and last[0][0] != x:
        slope = min(max((y - last[0][1]) / (x - last[0][0]), 0.1), 10.0)
    return math.exp(x - y / slope)
