"""Subspace node pruning (SNP, arXiv 2405.17506): rank units in an orthogonal subspace, cut, repair by least squares."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

from secateur.graph import Graph, Group
from secateur.recovery import OnePass, Recovery, Sequential
from secateur.selection.allocation import Allocation, LossPerCost, Threshold
from secateur.selection.bundle import Ranked
from secateur.statistics import Statistics

from .kinds.units import OfUnits
from .orders import ZCA, Output
from .protocol import Needs
from .ranking import Order
from .readers import readers

__all__ = ["SNP"]


@dataclass(frozen=True)
class SNP(OfUnits):
    """Subspace node pruning.

    The default goes beyond the paper: units are ordered by what the consumers' outputs lose after the best
    repair, over whole patches and about the mean, groups compete by loss per cost, and every touched layer is
    refitted front to back. `SNP.paper()` is the published form. `patches` and `centred` say which moments the
    order sees; without a `recovery` nothing is repaired.

    >>> SNP.paper().order
    ZCA()
    """

    order: Order = field(default_factory=partial(Output, ridge=0.1))
    allocation: Allocation = field(default_factory=LossPerCost, kw_only=True)
    recovery: Recovery | None = field(default_factory=Sequential, kw_only=True)
    patches: bool = field(default=True, kw_only=True)
    centred: bool = field(default=True, kw_only=True)

    @staticmethod
    def paper() -> SNP:
        """Unnormalised-ZCA order and LDL on uncentred channel moments, one threshold, one pass of least squares."""
        return SNP(ZCA(), allocation=Threshold(), recovery=OnePass(), patches=False, centred=False)

    @property
    def label(self) -> str:
        """What reports call it."""
        return "SNP (paper)" if self == SNP.paper() else "SNP"

    @property
    def needs(self) -> Needs:
        """What it has to be given."""
        return replace(super().needs, patches=self.patches)

    def rank(self, graph: Graph, group: Group, statistics: Statistics) -> Ranked:
        """Return the order and loss curve of a group's units."""
        seen = readers(graph, group, statistics, patches=self.patches, centred=self.centred)
        ranking = self.order(seen)
        return Ranked(group, ranking.order, ranking.loss)
