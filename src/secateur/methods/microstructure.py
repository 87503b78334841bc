"""Micro-structured pruning and unification (arXiv 2106.08301): which blocks of which layers become zero or unified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from secateur.blocks import Assignment, Block, BlockPattern, Costs, Joint, Partition, choose
from secateur.blocks.blockable import SKIPPED, Blockable, Skip, blockable
from secateur.blocks.pattern import KEEP
from secateur.blocks.projection import check_shares
from secateur.ground.errors import StructureError
from secateur.ground.patterns import check_patterns, matches

__all__ = ["AcrossLayers", "EachLayer", "MicroStructured", "Shares", "Spread"]


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

    def __call__(
        self,
        partitions: Mapping[str, Partition],
        costs: Mapping[str, Costs],
        shares: Mapping[str, Shares],
        assignment: Assignment,
        within: Mapping[str, BlockPattern],
    ) -> dict[str, BlockPattern]:
        """Return a pattern for each weight."""


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


@dataclass(frozen=True)
class MicroStructured:
    """What blocks of which shape become zero or unified, and in which layers.

    `zero` and `unify` are shares of all blocks: 70 % zeros and half of the rest unified are ``zero=0.7, unify=0.15``.
    `shares` gives layers that globs over module paths name other ones, `blocks` other blocks. `skip` names what
    stays whole, by globs, types, or places; biases always do. `assignment` decides in a layer, `spread` between layers.

    Raises:
        StructureError: a share is out of range, or both together are more than all blocks.

    >>> MicroStructured(zero=0.7, unify=0.15).label
    '8x1 blocks, 70 % zero, 15 % unified'
    """

    block: Block = Block(8, 1)  # noqa: RUF009 - frozen
    zero: float = 0.7
    unify: float = 0.0
    shares: Mapping[str, Shares] = field(default_factory=dict)
    blocks: Mapping[str, Block] = field(default_factory=dict)
    skip: tuple[Skip, ...] = SKIPPED
    assignment: Assignment = field(default_factory=Joint)
    spread: Spread = field(default_factory=EachLayer)

    def __post_init__(self) -> None:
        check_shares(self.zero, self.unify)
        if not isinstance(self.block, Block):
            raise StructureError(f"block={self.block!r} is no Block: write Block(8, 1).")

    @property
    def label(self) -> str:
        """What reports call it."""
        parts = [f"{100 * n:g} % {what}" for n, what in ((self.zero, "zero"), (self.unify, "unified")) if n]
        return ", ".join([f"{self.block} blocks", *parts])

    def layers(self, model: nn.Module) -> Blockable:
        """Return what is cut into blocks in a model, and why the rest is not. Raises as `blockable`."""
        return blockable(model, self.block, self.skip, self.blocks)

    def observed(self, model: nn.Module) -> dict[str, BlockPattern]:
        """Return the patterns that a model's weights obey as they are."""
        return {
            name: BlockPattern.observed(partition, model.get_parameter(name))
            for name, partition in self.layers(model).partitions.items()
        }

    def patterns(
        self,
        model: nn.Module,
        partitions: Mapping[str, Partition],
        costs: Mapping[str, Costs],
        within: Mapping[str, BlockPattern] | None = None,
    ) -> dict[str, BlockPattern]:
        """Return a pattern for each weight; blocks that `within` has changed already stay so, and count.

        Raises:
            UnknownNameError: a glob of `shares` matches no module.
            StructureError: the shares cannot be had.
        """
        check_patterns(model, self.shares, "shares")
        shares = {name: self.shares_of(model, name) for name in partitions}
        return self.spread(partitions, costs, shares, self.assignment, within or {})

    def shares_of(self, model: nn.Module, weight: str) -> Shares:
        """Return the shares of a weight: those of the last glob that matches its module, else the method's."""
        own = [s for g, s in self.shares.items() if matches(model, weight.rpartition(".")[0], g)]
        return own[-1] if own else Shares(self.zero, self.unify)
