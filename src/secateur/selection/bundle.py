"""Bundles: the groups that compete, alone, or together where their widths have to be the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.graph import Group, Kept

from .constraints import Constraints

__all__ = ["Bundle", "Ranked", "bundles", "remaining"]


@dataclass(frozen=True)
class Ranked:
    """A group with its units' order (most important first) and its loss curve (see `methods.Ranking`)."""

    group: Group
    order: tuple[int, ...]
    loss: Tensor


def remaining(ranked: Iterable[Ranked], groups: Iterable[Group]) -> list[Ranked]:
    """Return the ranked groups that are among those left, as they are now."""
    left = {group.id: group for group in groups}
    return [replace(r, group=left[r.group.id]) for r in ranked if r.group.id in left]


@dataclass(frozen=True)
class Bundle:
    """Groups of the same size that keep the same number of units, and their loss curve, (size + 1,)."""

    members: tuple[Ranked, ...]
    loss: Tensor

    @property
    def size(self) -> int:
        """Number of units of each member."""
        return self.members[0].group.size

    def keep(self, wanted: int, constraints: Constraints) -> Kept:
        """Return the units that each member keeps where `wanted` would stay."""
        needed, orders = 0, list[tuple[int, ...]]()
        for member in self.members:
            n, order = _segments_first(member)
            needed = max(needed, n)
            orders.append(order)
        removable = all(m.group.removable for m in self.members)
        count = constraints.count(self.size, wanted, removable)
        if 0 < count < needed:
            count = constraints.count(self.size, needed)
        return {
            m.group.id: tuple(sorted(order[:count])) for m, order in zip(self.members, orders, strict=True)
        }


def bundles(ranked: Sequence[Ranked], constraints: Constraints, *, worst: bool = False) -> list[Bundle]:
    """Return what competes: all groups that are not fixed, those of one kind and size together if so constrained.

    The curve of several is the mean of theirs, so that a loss per cost is that of all together; with `worst` it is
    the largest of theirs at each count.
    """
    free = [entry for entry in ranked if entry.group.id not in constraints.fixed]
    if not constraints.uniform:
        return [Bundle((entry,), entry.loss) for entry in free]
    alike: dict[tuple[str, int], list[Ranked]] = defaultdict(list)
    for entry in free:
        alike[entry.group.kind, entry.group.size].append(entry)
    found = []
    for entries in alike.values():
        curves = torch.stack([entry.loss for entry in entries])
        found.append(Bundle(tuple(entries), curves.amax(0) if worst else curves.mean(0)))
    return found


def _segments_first(entry: Ranked) -> tuple[int, tuple[int, ...]]:
    """Return the order with the best unit of every segment in front, and how many those are."""
    first: list[int] = []
    for segment in entry.group.segments:
        if segment.units.isdisjoint(first):
            first.append(next(u for u in entry.order if u in segment.units))
    return len(first), (*first, *(u for u in entry.order if u not in first))
