"""Baselines: random units, and units with the smallest filter norms (Li et al. 2017, arXiv 1608.08710)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.graph import Graph, Group
from secateur.recovery import Recovery
from secateur.selection import Allocation, Ranked, Uniform
from secateur.statistics import Statistics

from .ranking import Ranking, from_scores

__all__ = ["Magnitude", "Random"]


@dataclass(frozen=True)
class Magnitude:
    """Units with the smallest Lp norm of their producers' filters go first, the same share of every group."""

    p: int = 1
    allocation: Allocation = field(default_factory=Uniform)
    recovery: Recovery | None = None

    @property
    def label(self) -> str:
        """What reports call it."""
        return f"L{self.p} filter norm"

    @property
    def patches(self) -> bool:
        """No order that looks at patches."""
        return False

    def rank(self, graph: Graph, group: Group, statistics: Statistics) -> Ranked:
        """Return the order and the share of the norms that is lost along it."""
        norms = torch.zeros(group.size, dtype=torch.float64)
        for site in group.producers:
            weight = (
                statistics.tensors[site.parameter].double().movedim(site.dim, 0).flatten(1).abs() ** self.p
            )
            norms += _by_unit(group, site.parameter, site.dim, weight.sum(1))
        return _ranked(group, from_scores(norms ** (1 / self.p), norms))


@dataclass(frozen=True)
class Random:
    """Units in an order drawn by `seed` and the group's name, the same share of every group."""

    seed: int = 0
    allocation: Allocation = field(default_factory=Uniform)
    recovery: Recovery | None = None

    @property
    def label(self) -> str:
        """What reports call it."""
        return f"random (seed {self.seed})"

    @property
    def patches(self) -> bool:
        """No order that looks at patches."""
        return False

    def rank(self, graph: Graph, group: Group, statistics: Statistics) -> Ranked:
        """Return a random order."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + zlib.crc32(group.id.encode()))
        scores = torch.rand(group.size, generator=generator, dtype=torch.float64)
        return _ranked(group, from_scores(scores, torch.ones(group.size, dtype=torch.float64)))


def _by_unit(group: Group, parameter: str, dim: int, values: Tensor) -> Tensor:
    owner = torch.tensor(group.owner(parameter, dim))
    result = torch.zeros(group.size, dtype=values.dtype)
    return result.index_add(0, owner[owner >= 0], values[owner >= 0])


def _ranked(group: Group, ranking: Ranking) -> Ranked:
    return Ranked(group, ranking.order, ranking.loss)
