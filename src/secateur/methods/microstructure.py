"""Micro-structured pruning and unification (arXiv 2106.08301): which blocks of which layers become zero or unified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from secateur.blocks import Costs, Partition
from secateur.graph import Graph
from secateur.statistics import Statistics

from .block_costs import Criterion, WeightError
from .kinds.blocks import OfBlocks
from .protocol import Needs

__all__ = ["MicroStructured"]


@dataclass(frozen=True)
class MicroStructured(OfBlocks):
    """Blocks of weights become zero or unified (one magnitude, signs kept), without training; see `OfBlocks`.

    `criterion` prices blocks: by the error of the weights, or of the layers' outputs. To train towards such blocks,
    give this to `ADMM`.

    >>> MicroStructured(zero=0.7, unify=0.15).label
    '8x1 blocks, 70 % zero, 15 % unified'
    """

    criterion: Criterion = field(default_factory=WeightError)

    @property
    def needs(self) -> Needs:
        """What it has to be given."""
        return replace(super().needs, patches=self.criterion.calibrated)

    def price(
        self,
        graph: Graph,
        partitions: Mapping[str, Partition],
        tensors: Mapping[str, Tensor],
        statistics: Statistics | None,
    ) -> dict[str, Costs]:
        """Return what each block of each weight costs by the criterion."""
        return self.criterion(graph, partitions, tensors, statistics)
