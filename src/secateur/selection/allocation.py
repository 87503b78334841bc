"""Allocations: how groups compete, as one key per unit; units with smaller keys go first."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Allocation", "LossPerCost", "Standardised", "Threshold", "Uniform"]


class Allocation(Protocol):
    """Turns one group's loss curve into keys that can be compared over all groups."""

    def __call__(self, loss: Tensor, cost: float) -> Tensor:
        """Return a key for each position of the order, (n,), never increasing along it.

        `loss` (n + 1,) is the relative loss when the first k units stay; `cost` is what one unit costs.
        """
        ...


@dataclass(frozen=True)
class Threshold:
    """One threshold on the cumulative variance for all groups (SNP, section on global ratios).

    ``k_l(tau) = min{k : v_l(k) >= tau}``, hence the unit after the first k goes as soon as ``1 - v_l(k)`` is at
    most ``1 - tau``.
    """

    def __call__(self, loss: Tensor, cost: float) -> Tensor:
        """Return the keys ``1 - v(k)`` for k = 0 ... n - 1."""
        return loss[:-1]


@dataclass(frozen=True)
class Uniform:
    """The same share of every group."""

    def __call__(self, loss: Tensor, cost: float) -> Tensor:
        """Return the share of the group that is gone once this position has been removed."""
        n = len(loss) - 1
        return 1 - torch.arange(n, dtype=torch.float64) / n


@dataclass(frozen=True)
class Standardised:
    """Scores less their mean over the group, by their deviation, as FLAP compares layers (arXiv 2312.11983).

    A unit's score is what the loss rises by when it goes, as it is for criteria that only sort.
    """

    def __call__(self, loss: Tensor, cost: float) -> Tensor:
        """Return the standardised scores along the order; never increasing where the order sorts by them."""
        scores = loss[:-1] - loss[1:]
        keys = (scores - scores.mean()) / scores.std(correction=0).clamp_min(1e-12)
        return torch.cummin(keys, 0).values


@dataclass(frozen=True)
class LossPerCost:
    """The least loss for what is saved: slopes of the lower convex hull of loss against cost."""

    def __call__(self, loss: Tensor, cost: float) -> Tensor:
        """Return the slope of the hull segment that each position lies in."""
        curve = loss.flip(0).tolist()  # by the number of units removed
        hull = [0]
        for r in range(1, len(curve)):
            while len(hull) > 1 and _slope(curve, hull[-1], r) <= _slope(curve, hull[-2], hull[-1]):
                hull.pop()
            hull.append(r)
        keys = torch.empty(len(curve) - 1, dtype=torch.float64)
        for a, b in pairwise(hull):
            keys[a:b] = _slope(curve, a, b) / max(cost, 1e-12)
        return keys.flip(0)


def _slope(curve: list[float], a: int, b: int) -> float:
    return (curve[b] - curve[a]) / (b - a)
