"""Selection: one order of removal over all groups, of which a budget takes the shortest prefix that suffices."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from torch import Tensor

from secateur.errors import BudgetError
from secateur.graph import Graph, Group, Kept

from .allocation import Allocation, Threshold
from .budget import Budget

__all__ = ["Constraints", "Ranked", "dense_amount", "removal_order", "select", "unit_cost"]


@dataclass(frozen=True)
class Ranked:
    """A group with its units' order (most important first) and its loss curve (see `methods.Ranking`)."""

    group: Group
    order: tuple[int, ...]
    loss: Tensor


@dataclass(frozen=True)
class Constraints:
    """What every selection respects: kept units come in multiples of `round_to`, and never fewer than `floor`.

    A group with fewer units than these, or whose number of units is no multiple, may keep all of them. Groups whose
    branch can be replaced by its constant (`Group.removable`) may fall to zero where `whole_branches` is true and
    the floor is one; all others keep at least one unit.
    """

    round_to: int = 1
    floor: int = 1
    whole_branches: bool = True

    def __post_init__(self) -> None:
        if self.round_to < 1 or self.floor < 1:
            raise BudgetError(f"round_to={self.round_to} and floor={self.floor} must be at least 1.")

    def count(self, group: Group, wanted: int) -> int:
        """Return how many units stay where `wanted` would."""
        if wanted == 0 and group.removable and self.whole_branches and self.floor == 1:
            return 0
        rounded = -(-max(wanted, self.floor) // self.round_to) * self.round_to
        return min(rounded, group.size)


def dense_amount(graph: Graph, unit: str, kept: Kept) -> int:
    """Return the MACs for one sample or the parameters that stay under a selection."""
    return graph.total_macs(kept) if unit == "macs" else graph.params(kept)


def unit_cost(graph: Graph, group: Group, unit: str) -> float:
    """Return what one unit of a group costs in the dense model, in MACs or parameters."""
    rest = tuple(range(group.size - 1))
    return float(dense_amount(graph, unit, {}) - dense_amount(graph, unit, {group.id: rest}))


def removal_order(
    graph: Graph, ranked: list[Ranked], allocation: Allocation, unit: str
) -> list[tuple[float, int, int]]:
    """Return (key, index of the group, position in its order) of every unit, first to go first."""
    sequence = []
    for g, entry in enumerate(ranked):
        keys = allocation(entry.loss, unit_cost(graph, entry.group, unit)).tolist()
        sequence += [(key, g, -position) for position, key in enumerate(keys)]
    return [(key, g, -position) for key, g, position in sorted(sequence)]


def select(
    graph: Graph,
    ranked: list[Ranked],
    budget: Budget,
    allocation: Allocation,
    constraints: Constraints | None = None,
) -> dict[str, tuple[int, ...]]:
    """Return the kept units of every group, the most that fit the budget (law 3) and nested over budgets (law 5).

    Raises:
        BudgetError: the budget cannot be reached; the message says how far the model can go and what blocks it.
    """
    constraints = constraints or Constraints()
    if not ranked:
        raise BudgetError(_unreachable(graph, budget, {}, "no group of this model may be pruned"))
    if budget.unit == "variance":
        cut = 1 - budget.value
        sequence = removal_order(graph, ranked, Threshold(), "macs")
        return _kept(ranked, sequence[: sum(key <= cut for key, _, _ in sequence)], constraints)
    sequence = removal_order(graph, ranked, allocation, budget.unit)
    limit = budget.absolute(dense_amount(graph, budget.unit, {}))
    low, high = 0, len(sequence)
    smallest = _kept(ranked, sequence, constraints)
    if dense_amount(graph, budget.unit, smallest) > limit:
        raise BudgetError(_unreachable(graph, budget, smallest, "every group is at its floor"))
    while low < high:
        middle = (low + high) // 2
        if dense_amount(graph, budget.unit, _kept(ranked, sequence[:middle], constraints)) <= limit:
            high = middle
        else:
            low = middle + 1
    return _kept(ranked, sequence[:low], constraints)


def _kept(
    ranked: list[Ranked], removed: list[tuple[float, int, int]], constraints: Constraints
) -> dict[str, tuple[int, ...]]:
    gone = [0] * len(ranked)
    for _, g, _ in removed:
        gone[g] += 1
    kept = {}
    for entry, n in zip(ranked, gone, strict=True):
        needed, order = _segments_first(entry)
        count = constraints.count(entry.group, entry.group.size - n)
        if 0 < count < needed:
            count = constraints.count(entry.group, needed)
        kept[entry.group.id] = tuple(sorted(order[:count]))
    return kept


def _segments_first(entry: Ranked) -> tuple[int, tuple[int, ...]]:
    """Return the order with the best unit of every segment in front, and how many those are."""
    first: list[int] = []
    for segment in entry.group.segments:
        if segment.units.isdisjoint(first):
            first.append(next(u for u in entry.order if u in segment.units))
    return len(first), (*first, *(u for u in entry.order if u not in first))


def _unreachable(graph: Graph, budget: Budget, smallest: Kept, why: str) -> str:
    unit = "params" if budget.unit == "variance" else budget.unit
    dense = dense_amount(graph, unit, {})
    least = dense_amount(graph, unit, smallest)
    counts = Counter(f.reason for f in graph.frozen)
    blocked = "; ".join(f"{reason} ({n} dimensions)" for reason, n in counts.most_common(3))
    share = least / max(dense, 1)
    return (
        f"The budget ({budget}) is out of reach: {why}, and the model still has {share:.1%} of its {dense:,} {unit}. "
        f"Ask for at least {math.ceil(1000 * share) / 1000:.3f}, allow fewer exclusions, or a lower floor or round_to."
        + (f" Frozen: {blocked}." if blocked else "")
    )
