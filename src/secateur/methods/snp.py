"""Subspace node pruning (SNP, arXiv 2405.17506): rank units in an orthogonal subspace, cut, repair by least squares."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..graph import Graph, Group
from ..selection.allocation import Allocation, LossPerCost, Threshold
from ..selection.select import Ranked
from ..statistics.collect import Statistics
from .orders import ZCA, Output
from .ranking import Order
from .readers import readers

__all__ = ["SNP"]


@dataclass(frozen=True)
class SNP:
    """Subspace node pruning.

    The default goes beyond the paper: units are ordered by what the consumers' outputs lose after the best
    repair, over whole patches and about the mean, and groups compete by loss per cost. `SNP.paper()` is the
    published form. `patches` and `centred` say which moments the order sees; `streams` admits residual streams.

    >>> SNP.paper().order
    ZCA()
    """

    order: Order = field(default_factory=Output)
    allocation: Allocation = field(default_factory=LossPerCost)
    patches: bool = True
    centred: bool = True

    @staticmethod
    def paper() -> SNP:
        """Unnormalised-ZCA order and LDL on uncentred channel moments, one cumulative-variance threshold."""
        return SNP(ZCA(), Threshold(), patches=False, centred=False)

    def rank(self, graph: Graph, group: Group, statistics: Statistics) -> Ranked:
        """Return the order and loss curve of a group's units."""
        seen = readers(graph, group, statistics, patches=self.patches, centred=self.centred)
        ranking = self.order(seen)
        return Ranked(group, ranking.order, ranking.loss)
