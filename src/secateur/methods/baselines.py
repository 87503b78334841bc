"""Baselines: random units, units with the smallest filter norms (Li et al. 2017, arXiv 1608.08710), and units with
the smallest BatchNorm gains (network slimming, Liu et al. 2017, arXiv 1708.06519)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.graph import Graph, Group, Ref
from secateur.selection import Ranked
from secateur.statistics import Statistics

from .kinds.units import OfUnits
from .ranking import ranked

__all__ = ["BatchNormScale", "Magnitude", "Random"]


@dataclass(frozen=True)
class Magnitude(OfUnits):
    """Units with the smallest Lp norm of their producers' filters go first, the same share of every group."""

    p: int = 1

    def __post_init__(self) -> None:
        if self.p < 1:
            raise ValueError(f"p={self.p} must be at least 1: the norm is (sum |w|^p)^(1/p).")

    @property
    def label(self) -> str:
        """What reports call it."""
        return f"L{self.p} filter norm"

    def rank(self, graph: Graph, group: Group, statistics: Statistics) -> Ranked:
        """Return the order and the share of the norms that is lost along it."""
        norms = torch.zeros(group.size, dtype=torch.float64)
        for site in group.producers:
            weight = (
                statistics.tensors[site.parameter].cpu().double().movedim(site.dim, 0).flatten(1).abs()
                ** self.p
            )
            norms += _by_unit(group, site.parameter, site.dim, weight.sum(1))
        return ranked(group, norms ** (1 / self.p), norms)


@dataclass(frozen=True)
class BatchNormScale(OfUnits):
    """Units with the smallest ``|gamma|`` of their BatchNorms go first, the same share of every group.

    A unit that several BatchNorms scale has the sum. In a group that none scales, filters count by their L2 norm.
    Network slimming trains with a penalty on the gains before it prunes; without one they say less.
    """

    @property
    def label(self) -> str:
        """What reports call it."""
        return "BatchNorm scale"

    def rank(self, graph: Graph, group: Group, statistics: Statistics) -> Ranked:
        """Return the order and the share of the gains that is lost along it."""
        owned = {s.parameter for s in group.slices} & _gains(graph)
        if not owned:
            return Magnitude(p=2).rank(graph, group, statistics)
        gains = [
            _by_unit(group, name, 0, statistics.tensors[name].cpu().double().abs()) for name in sorted(owned)
        ]
        total = torch.stack(gains).sum(0)
        return ranked(group, total)


@dataclass(frozen=True)
class Random(OfUnits):
    """Units in an order drawn by `seed` and the group's name, the same share of every group."""

    seed: int = 0

    @property
    def label(self) -> str:
        """What reports call it."""
        return f"random (seed {self.seed})"

    def rank(self, graph: Graph, group: Group, statistics: Statistics) -> Ranked:
        """Return a random order."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + zlib.crc32(group.id.encode()))
        scores = torch.rand(group.size, generator=generator, dtype=torch.float64)
        return ranked(group, scores, torch.ones(group.size, dtype=torch.float64))


def _gains(graph: Graph) -> set[str]:
    """Return the canonical names of the weights of all BatchNorms."""
    weights = [node.args[1] for node in graph.program.nodes if node.op == "batch_norm"]
    return {graph.program.parameters[w.name][0] for w in weights if isinstance(w, Ref)}


def _by_unit(group: Group, parameter: str, dim: int, values: Tensor) -> Tensor:
    owner = torch.tensor(group.owner(parameter, dim))
    result = torch.zeros(group.size, dtype=values.dtype)
    return result.index_add(0, owner[owner >= 0], values[owner >= 0])
