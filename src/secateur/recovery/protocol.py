"""What every recovery is: from a selection to repaired tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor

from secateur.graph import Graph, Kept
from secateur.statistics import Statistics

__all__ = ["Recovery"]


class Recovery(Protocol):
    """Repairs a pruned network in closed form, without labels and without a gradient step."""

    def __call__(
        self, graph: Graph, kept: Kept, statistics: Statistics, calibration: Iterable[Any], seed: int = 0
    ) -> dict[str, Tensor]:
        """Return all tensors of the pruned network by canonical name, in the dense network's shapes."""
        ...
