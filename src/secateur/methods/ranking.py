"""What a method knows of a group, and what it says: readers in, a ranking out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from secateur.graph import Group
from secateur.selection import Ranked

__all__ = ["Order", "Ranking", "Reader", "dead_units", "from_scores", "ranked"]


@dataclass(frozen=True)
class Reader:
    """How one consumer reads a group: moments of what it reads, and the weights that it reads with.

    ``xx`` (d, d), float64, second moments of the columns; ``weight`` (rows, d), float64, scaled to the units in
    which the output error counts; ``columns`` (units, b) the columns of each unit, padded with ``d``;
    ``power`` the mean square of the consumer's output about its mean, in the same units.
    """

    xx: Tensor
    weight: Tensor
    columns: Tensor
    power: float

    def unit_power(self) -> Tensor:
        """Return the mean square that each unit carries, (units,)."""
        diagonal = torch.cat([self.xx.diagonal(), self.xx.new_zeros(1)])
        return diagonal[self.columns].sum(1)


@dataclass(frozen=True)
class Ranking:
    """Units of a group, most important first, and the relative loss when only the first k are kept.

    ``loss`` has one entry more than there are units; it never increases with k, and ``loss[-1]`` is zero.
    """

    order: tuple[int, ...]
    loss: Tensor


class Order(Protocol):
    """Ranks the units of a group by how its consumers read them."""

    def __call__(self, readers: Sequence[Reader]) -> Ranking:
        """Return the ranking; the same readers give the same ranking."""
        ...


def dead_units(readers: Sequence[Reader]) -> Tensor:
    """Return which units carry nothing that any reader could notice (methods: diag C < 1e-12 max), bool (units,)."""
    dead = torch.ones(len(readers[0].columns), dtype=torch.bool, device=readers[0].xx.device)
    for reader in readers:
        power = reader.unit_power()
        dead &= power <= 1e-12 * power.max()
    return dead


def from_scores(scores: Tensor, powers: Tensor) -> Ranking:
    """Rank by descending score (ties by index); `powers` by unit say how much each adds to what is kept."""
    order = torch.argsort(scores, descending=True, stable=True)
    kept = torch.cat([powers.new_zeros(1), powers[order].clamp_min(0).cumsum(0)])
    total = kept[-1]
    loss = 1 - kept / total if total > 0 else torch.zeros_like(kept)
    loss[-1] = 0
    return Ranking(tuple(order.tolist()), loss.clamp_min(0).cpu())


def ranked(group: Group, scores: Tensor, powers: Tensor | None = None) -> Ranked:
    """Return a group's units by descending score, (units,), and what is lost along that order (see `from_scores`)."""
    ranking = from_scores(scores, scores if powers is None else powers)
    return Ranked(group, ranking.order, ranking.loss)
