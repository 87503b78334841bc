"""Selection: one order of removal over all groups, of which a budget takes the shortest prefix that suffices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from secateur.graph import Graph
from secateur.ground.errors import BudgetError

from .allocation import Allocation, Threshold
from .budget import Budget
from .bundle import Bundle, Ranked, bundles
from .constraints import Constraints
from .cost import COUNTS, CostModel, macs, params

__all__ = ["out_of_reach", "removal_order", "select", "smallest", "unit_cost"]

Step = tuple[float, int, int]
"""Key, index of the bundle, position in its order."""


def unit_cost(graph: Graph, bundle: Bundle, cost: CostModel) -> float:
    """Return what one unit of each member costs: the mean over the first half of them to go.

    That is the cost in the dense model where it is linear in the number of units, as MACs and parameters are for
    all but residual streams; times are curves with steps.
    """
    gone = max(bundle.size // 2, 1)
    left = tuple(range(bundle.size - gone))
    kept = {m.group.id: left for m in bundle.members if left or m.group.removable}
    return (cost(graph, {}) - cost(graph, kept)) / gone


def removal_order(
    graph: Graph, competing: Sequence[Bundle], allocation: Allocation, cost: CostModel
) -> list[Step]:
    """Return (key, index of the bundle, position in its order) of every unit, first to go first."""
    sequence = []
    for b, bundle in enumerate(competing):
        mean = unit_cost(graph, bundle, cost) / len(bundle.members)  # as the curve is a mean
        keys = allocation(bundle.loss, mean).tolist()
        sequence += [(key, b, -position) for position, key in enumerate(keys)]
    return [(key, b, -position) for key, b, position in sorted(sequence)]


def select(
    graph: Graph,
    ranked: Sequence[Ranked],
    budget: Budget,
    allocation: Allocation,
    constraints: Constraints | None = None,
    cost: CostModel | None = None,
) -> dict[str, tuple[int, ...]]:
    """Return the kept units of every group, the most that fit the budget (law 3) and nested over budgets (law 5).

    `cost` says what a selection costs in the budget's unit. It may be left out for what can be counted (macs,
    params, bytes) and for variance; a latency needs one, `secateur.measure.latency_model`.

    Raises:
        BudgetError: the budget cannot be reached; the message says how far the model can go and what blocks it. Or
            the whole model is within it.
    """
    constraints = constraints or Constraints()
    cost = cost or COUNTS.get(budget.unit)
    if budget.unit == "variance":
        if not ranked:
            everything = params(graph, {})
            raise BudgetError(out_of_reach(graph, budget, everything, everything, _NOTHING))
        competing = bundles(ranked, constraints, worst=True)
        sequence = removal_order(graph, competing, Threshold(), macs)
        gone = sum(key <= 1 - budget.value for key, _, _ in sequence)
        return _kept(ranked, competing, sequence[:gone], constraints)
    if budget.unit == "weights":
        raise BudgetError(
            f"The budget ({budget}) counts single weights, which only methods that train remove: budget params instead."
        )
    if cost is None:
        raise BudgetError(
            f"The budget ({budget}) needs a cost model: make one with secateur.measure.latency_model."
        )
    dense = cost(graph, {})
    limit = budget.absolute(dense)
    if budget.unit in COUNTS and limit >= dense and not constraints.fixed:
        each = " for one sample" if budget.unit == "macs" else ""
        raise BudgetError(
            f"The budget ({budget}) is no cut: the whole model has {dense:,.0f} {budget.unit}{each}. "
            f"Ask for a share below 1, or for a number below that."
        )
    if not ranked:
        raise BudgetError(out_of_reach(graph, budget, dense, dense, _NOTHING))
    least = cost(graph, smallest(ranked, constraints))
    if least > limit:
        raise BudgetError(out_of_reach(graph, budget, dense, least, _floor(constraints)))
    competing = bundles(ranked, constraints)
    sequence = removal_order(graph, competing, allocation, cost)
    low, high = 0, len(sequence)
    while low < high:
        middle = (low + high) // 2
        if cost(graph, _kept(ranked, competing, sequence[:middle], constraints)) <= limit:
            high = middle
        else:
            low = middle + 1
    return _kept(ranked, competing, sequence[:low], constraints)


def smallest(ranked: Sequence[Ranked], constraints: Constraints) -> dict[str, tuple[int, ...]]:
    """Return the selection with every group at its floor."""
    competing = bundles(ranked, constraints)
    everything = [(0.0, b, p) for b, bundle in enumerate(competing) for p in range(bundle.size)]
    return _kept(ranked, competing, everything, constraints)


def out_of_reach(graph: Graph, budget: Budget, dense: float, least: float, why: str) -> str:
    """Return the message of law 3: how far the model can go (`least` of `dense`), why no further, what blocks it."""
    counts = Counter(f.reason for f in graph.frozen)
    blocked = "; ".join(f"{reason} ({n} dimensions)" for reason, n in counts.most_common(3))
    share = least / max(dense, 1e-12)
    if budget.unit == "latency_ms":
        have, ask = f"{least:.2f} of its {dense:.2f} ms", f"latency_ms={math.ceil(100 * least) / 100:.2f}"
    else:
        unit = "params" if budget.unit == "variance" else budget.unit
        total = "latency" if unit == "latency" else f"{dense:,.0f} {unit}"
        have, ask = f"{share:.1%} of its {total}", f"{math.ceil(1000 * share) / 1000:.3f}"
    return (
        f"The budget ({budget}) is out of reach: {why}, and the model still has {have}. "
        f"Ask for at least {ask}, allow fewer exclusions, or a lower floor or round_to."
        + (f" Frozen: {blocked}." if blocked else "")
    )


_NOTHING = "no group of this model may be pruned"


def _floor(constraints: Constraints) -> str:
    fixed = ", ".join(constraints.fixed)
    return "every group is at its floor" + (f" (fixed: {fixed})" if fixed else "")


def _kept(
    ranked: Sequence[Ranked], competing: Sequence[Bundle], removed: Sequence[Step], constraints: Constraints
) -> dict[str, tuple[int, ...]]:
    gone = Counter(b for _, b, _ in removed)
    kept: dict[str, tuple[int, ...]] = {}
    for b, bundle in enumerate(competing):
        kept |= bundle.keep(bundle.size - gone[b], constraints)
    for entry in ranked:
        if entry.group.id in constraints.fixed:
            kept |= Bundle((entry,), entry.loss).keep(constraints.fixed[entry.group.id], constraints)
    return {entry.group.id: kept[entry.group.id] for entry in ranked}
