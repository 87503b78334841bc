"""Which blocks become zero and which are unified, when their numbers are given.

Every block is kept at no cost, unified at the cost ``u`` or zeroed at the cost ``z >= u``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .pattern import UNIFY, ZERO

__all__ = ["Assignment", "Costs", "Joint", "PruneFirst"]


@dataclass(frozen=True)
class Costs:
    """What it costs to zero and to unify each block, and its own energy, float64 (blocks,)."""

    zero: Tensor
    unify: Tensor
    energy: Tensor


class Assignment(Protocol):
    """Gives states to blocks."""

    def __call__(self, costs: Costs, zeros: int, unified: int) -> Tensor:
        """Return the states, int8 (blocks,), with these numbers of zero and of unified blocks."""
        ...


@dataclass(frozen=True)
class PruneFirst:
    """Zero the blocks where that costs least, then unify those of the rest where that costs least (the patents' order).

    With `relative` the cost of unifying is divided by the energy of the block: plain costs favour blocks of small
    weights, which matter little however they are treated.
    """

    relative: bool = False

    def __call__(self, costs: Costs, zeros: int, unified: int) -> Tensor:
        """Return the states, int8 (blocks,)."""
        states = torch.zeros(len(costs.zero), dtype=torch.int8)
        states[_least(costs.zero, zeros)] = ZERO
        price = costs.unify / costs.energy.clamp_min(1e-300) if self.relative else costs.unify
        states[_least(price.masked_fill(states == ZERO, float("inf")), unified)] = UNIFY
        return states


@dataclass(frozen=True)
class Joint:
    """The assignment of the least total cost: both choices made at once, exactly.

    For a discount ``d`` on zeroing, the best choice is simple: the blocks with the least ``min(u, z - d)`` change,
    to whichever is less. The number of zeros grows with ``d``; bisection finds where it reaches the wanted one
    (the Lagrange multiplier of that number), and what is still open there costs the same either way.
    """

    def __call__(self, costs: Costs, zeros: int, unified: int) -> Tensor:
        """Return the states, int8 (blocks,)."""
        if not unified or not zeros:
            return PruneFirst()(costs, zeros, unified)
        changed = zeros + unified
        possible = costs.zero[costs.zero.isfinite()]  # an infinite cost forbids
        least, most = 0.0, 2 * float(possible.max().clamp_min(1e-300)) if len(possible) else 1.0
        low, high = _at(costs, least, changed), _at(costs, most, changed)
        while least < (middle := (least + most) / 2) < most:
            states = _at(costs, middle, changed)
            found = int((states == ZERO).sum())
            if found == zeros:
                return states
            if found > zeros:
                most, high = middle, states
            else:
                least, low = middle, states
        return _between(costs, low, high, zeros)


def _least(values: Tensor, count: int) -> Tensor:
    """Return the places of the least values; of equal ones the first."""
    return torch.argsort(values, stable=True)[:count]


def _at(costs: Costs, discount: float, changed: int) -> Tensor:
    """Return the best states for a discount on zeroing when so many blocks must change."""
    cheaper = costs.zero - discount < costs.unify
    chosen = _least(torch.minimum(costs.zero - discount, costs.unify), changed)
    states = torch.zeros(len(cheaper), dtype=torch.int8)
    states[chosen] = torch.where(cheaper[chosen], ZERO, UNIFY).to(torch.int8)
    return states


def _between(costs: Costs, low: Tensor, high: Tensor, zeros: int) -> Tensor:
    """Go from the states with too few zeros towards those with too many, by steps of equal cost, until it fits."""
    states = low.clone()
    missing = zeros - int((low == ZERO).sum())
    flips = torch.where((low == UNIFY) & (high == ZERO))[0][:missing]
    states[flips] = ZERO
    missing -= len(flips)
    enter = torch.where((low == 0) & (high == ZERO))[0][:missing]
    leave = torch.where((low == UNIFY) & (high == 0))[0][: len(enter)]
    states[enter[: len(leave)]] = ZERO
    states[leave] = 0
    missing -= len(leave)
    if missing > 0:  # rounding closed the way: the cheapest of what is left
        price = (costs.zero - costs.unify).masked_fill(states != UNIFY, float("inf"))
        states[_least(price, missing)] = ZERO
    return states
