"""Criteria that weigh weights by what flows through them, and units by how much they fluctuate.

Both come from the pruning of language models without training; here they rank units of any group.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from secateur.graph import Graph, Group
from secateur.recovery import OnePass, Recovery
from secateur.selection import Allocation, Ranked
from secateur.selection.allocation import Standardised
from secateur.statistics import Statistics

from .kinds.units import OfUnits
from .ranking import ranked
from .readers import readers

__all__ = ["ActivationMagnitude", "Fluctuation"]


@dataclass(frozen=True)
class ActivationMagnitude(OfUnits):
    """``sum_o |W_oi| ||X_i||`` over what reads unit i: Wanda's metric (arXiv 2306.11695), summed for whole units."""

    @property
    def label(self) -> str:
        """What reports call it."""
        return "activation-weighted magnitude"

    def rank(self, graph: Graph, group: Group, statistics: Statistics) -> Ranked:
        """Return the order and the share of the scores that is lost along it."""
        scores = torch.zeros(group.size, dtype=torch.float64)
        for reader in readers(graph, group, statistics, patches=False, centred=False):
            power = reader.xx.diagonal().clamp_min(0).sqrt()
            scores += _summed(reader.weight.abs().sum(0) * power, reader.columns).cpu()
        return ranked(group, scores)


@dataclass(frozen=True)
class Fluctuation(OfUnits):
    """``var(X_i) ||W_:i||^2`` over what reads unit i, standardised within each group: FLAP (arXiv 2312.11983).

    What a unit is on average goes into the bias of the layer that reads it: the default recovery does that and nothing
    else (its ridge leaves every kept weight as it is).
    """

    allocation: Allocation = field(default_factory=Standardised, kw_only=True)
    recovery: Recovery | None = field(
        default_factory=partial(OnePass, ridges=(1e12,), centred=True), kw_only=True
    )

    @property
    def label(self) -> str:
        """What reports call it."""
        return "fluctuation"

    def rank(self, graph: Graph, group: Group, statistics: Statistics) -> Ranked:
        """Return the order and the share of the scores that is lost along it."""
        scores = torch.zeros(group.size, dtype=torch.float64)
        for reader in readers(graph, group, statistics, patches=False, centred=True):
            variance = reader.xx.diagonal().clamp_min(0)
            scores += _summed((reader.weight**2).sum(0) * variance, reader.columns).cpu()
        return ranked(group, scores)


def _summed(by_column: Tensor, columns: Tensor) -> Tensor:
    return torch.cat([by_column, by_column.new_zeros(1)])[columns].sum(1)
