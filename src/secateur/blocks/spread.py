"""How layers share what becomes zero or unified: each has its own shares, or all compete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from secateur.ground.errors import StructureError

from .assignment import Assignment, Costs
from .partition import Partition
from .pattern import KEEP, BlockPattern
from .projection import check_shares, choose

__all__ = ["AcrossLayers", "EachLayer", "Shares", "Spread"]


@dataclass(frozen=True)
class Shares:
    """The shares of a layer's blocks that become zero and unified.

    Raises:
        StructureError: one is not within 0 and 1, or their sum is above 1.
    """

    zero: float = 0.0
    unify: float = 0.0

    def __post_init__(self) -> None:
        check_shares(self.zero, self.unify)


class Spread(Protocol):
    """How layers share what becomes zero or unified."""

    def room(self, partition: Partition) -> int:
        """Return how many blocks of a weight may be zero."""
        ...

    def __call__(
        self,
        partitions: Mapping[str, Partition],
        costs: Mapping[str, Costs],
        shares: Mapping[str, Shares],
        assignment: Assignment,
        within: Mapping[str, BlockPattern],
    ) -> dict[str, BlockPattern]:
        """Return a pattern for each weight."""
        ...


@dataclass(frozen=True)
class EachLayer:
    """Every layer has its own shares."""

    def room(self, partition: Partition) -> int:
        """Return how many blocks of a weight may be zero: all."""
        return partition.count

    def __call__(
        self,
        partitions: Mapping[str, Partition],
        costs: Mapping[str, Costs],
        shares: Mapping[str, Shares],
        assignment: Assignment,
        within: Mapping[str, BlockPattern],
    ) -> dict[str, BlockPattern]:
        """Return a pattern for each weight."""
        return {
            name: choose(
                partition, costs[name], shares[name].zero, shares[name].unify, assignment, within.get(name)
            )
            for name, partition in partitions.items()
        }


@dataclass(frozen=True)
class AcrossLayers:
    """All layers compete: a block's cost counts as a share of its layer's energy, for each weight in it.

    The shares are those of all blocks together. No layer has more than `most` of its blocks zero: a layer that is
    almost empty costs more than its own error says.

    Raises:
        StructureError: `most` is not above 0 and at most 1.
    """

    most: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.most <= 1:
            raise StructureError(f"most={self.most!r} is out of range: it is a share above 0 and at most 1.")

    def room(self, partition: Partition) -> int:
        """Return how many blocks of a weight may be zero."""
        return int(self.most * partition.count)

    def __call__(
        self,
        partitions: Mapping[str, Partition],
        costs: Mapping[str, Costs],
        shares: Mapping[str, Shares],
        assignment: Assignment,
        within: Mapping[str, BlockPattern],
    ) -> dict[str, BlockPattern]:
        """Return a pattern for each weight."""
        counts = torch.tensor([p.count for p in partitions.values()])
        zeros = round(float(sum(n * shares[k].zero for k, n in zip(partitions, counts.tolist()))))
        unified = round(float(sum(n * shares[k].unify for k, n in zip(partitions, counts.tolist()))))
        pooled = [_relative(partitions[k], costs[k], self.room(partitions[k])) for k in partitions]
        states = torch.cat(
            [
                within[k].states.flatten() if k in within else torch.zeros(p.count, dtype=torch.int8)
                for k, p in partitions.items()
            ]
        )
        zeros -= int((states == 1).sum())
        unified = min(unified, len(states) - zeros) - int((states == 2).sum())
        if zeros < 0 or unified < 0:
            raise StructureError("The patterns to start from have more blocks changed than the shares allow.")
        free = states == KEEP
        together = Costs(
            *(torch.cat([getattr(c, f) for c in pooled])[free] for f in ("zero", "unify", "energy"))
        )
        if int(together.zero.isfinite().sum()) < zeros:
            raise StructureError(
                f"{zeros} zero blocks are more than most={self.most} of every layer: lower zero, or raise most."
            )
        states[free] = assignment(together, zeros, unified)
        return {
            name: BlockPattern(partitions[name], part.view(partitions[name].grid))
            for name, part in zip(partitions, states.split(counts.tolist()))
        }


def _relative(partition: Partition, costs: Costs, room: int) -> Costs:
    """Return costs as shares of the layer's energy for each weight; blocks beyond the room may not become zero."""
    unit = costs.energy.sum().clamp_min(1e-300) * partition.entries().flatten()
    zero = costs.zero / unit
    spared = torch.argsort(zero, stable=True)[room:]
    zero[spared] = float("inf")
    return Costs(zero, costs.unify / unit, costs.energy / unit)
