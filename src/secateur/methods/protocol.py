"""What every one-shot method is: a ranking of units, an allocation over groups, and a recovery."""

from __future__ import annotations

from typing import Protocol

from secateur.graph import Graph, Group
from secateur.recovery import Recovery
from secateur.selection import Allocation, Ranked
from secateur.statistics import Loss, Statistics

__all__ = ["Method"]


class Method(Protocol):
    """Says which units matter, how groups compete, and how what is left is repaired."""

    @property
    def label(self) -> str:
        """What reports call it."""

    @property
    def allocation(self) -> Allocation:
        """How groups compete for a budget."""

    @property
    def recovery(self) -> Recovery | None:
        """The repair after selection, if any."""

    @property
    def patches(self) -> bool:
        """Whether statistics need moments of whole patches."""

    @property
    def loss(self) -> Loss | None:
        """The loss whose gradients statistics need, if any."""

    def rank(self, graph: Graph, group: Group, statistics: Statistics) -> Ranked:
        """Return the order and loss curve of a group's units."""
