"""Taylor: units whose removal would change a loss least, to first order (Molchanov et al. 2019, arXiv 1906.10771)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from secateur.graph import Graph, Group
from secateur.selection import Allocation, LossPerCost, Ranked
from secateur.statistics import Loss, Statistics, random_projection

from .kinds.units import OfUnits
from .protocol import Needs
from .ranking import from_scores

__all__ = ["Taylor"]


@dataclass(frozen=True)
class Taylor(OfUnits):
    """Units whose removal moves a loss least for what it saves: ``(dL/dz)^2`` at the unit's gate z, mean over samples.

    `loss(outputs, labels)` returns a mean over the batch, as ``torch.nn.functional.cross_entropy`` does; labels are
    what the calibration batches hold behind the inputs (of a batch that is a mapping, the whole mapping). The default
    needs none: it measures how far the outputs themselves move, which is another criterion than the paper's. Scores
    are in the same unit in every layer, so groups compete as in the paper, here by score for what a unit costs.
    """

    loss: Loss = random_projection
    allocation: Allocation = field(default_factory=LossPerCost, kw_only=True)

    @property
    def label(self) -> str:
        """What reports call it."""
        return "Taylor (no labels)" if self.loss is random_projection else "Taylor"

    @property
    def needs(self) -> Needs:
        """What it has to be given."""
        return replace(super().needs, loss=self.loss)

    def rank(self, graph: Graph, group: Group, statistics: Statistics) -> Ranked:
        """Return the order, and the share of all groups' importance that is lost along it."""
        scores = statistics.gradients[group.id]
        everything = sum(float(s.sum()) for s in statistics.gradients.values())
        ranking = from_scores(scores, scores)
        return Ranked(group, ranking.order, ranking.loss * float(scores.sum()) / max(everything, 1e-300))
