"""Subspace node pruning (SNP, arXiv 2405.17506): rank units in an orthogonal subspace, cut, repair by least squares."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from secateur.graph import Graph, Group
from secateur.recovery import OnePass, Recovery, Sequential
from secateur.selection.allocation import Allocation, LossPerCost, Threshold
from secateur.selection.bundle import Ranked
from secateur.statistics import Statistics

from .orders import ZCA, Output
from .ranking import Order
from .readers import readers

__all__ = ["SNP"]


@dataclass(frozen=True)
class SNP:
    """Subspace node pruning.

    The default goes beyond the paper: units are ordered by what the consumers' outputs lose after the best
    repair, over whole patches and about the mean, groups compete by loss per cost, and every touched layer is
    refitted front to back. `SNP.paper()` is the published form. `patches` and `centred` say which moments the
    order sees; without a `recovery` nothing is repaired.

    >>> SNP.paper().order
    ZCA()
    """

    order: Order = field(default_factory=partial(Output, ridge=0.1))
    allocation: Allocation = field(default_factory=LossPerCost)
    recovery: Recovery | None = field(default_factory=Sequential)
    patches: bool = True
    centred: bool = True
    loss: ClassVar[None] = None

    @staticmethod
    def paper() -> SNP:
        """Unnormalised-ZCA order and LDL on uncentred channel moments, one threshold, one pass of least squares."""
        return SNP(ZCA(), Threshold(), OnePass(), patches=False, centred=False)

    @property
    def label(self) -> str:
        """What reports call it."""
        return "SNP (paper)" if self == SNP.paper() else "SNP"

    def rank(self, graph: Graph, group: Group, statistics: Statistics) -> Ranked:
        """Return the order and loss curve of a group's units."""
        seen = readers(graph, group, statistics, patches=self.patches, centred=self.centred)
        ranking = self.order(seen)
        return Ranked(group, ranking.order, ranking.loss)
