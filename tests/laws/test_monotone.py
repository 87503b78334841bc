"""Law 5: a tighter budget keeps a subset: the same scores, the same order."""

from itertools import product

import pytest
from ranked import CASES, METHODS, UNITS, calibrated, cost_of, rank

from secateur.ground.errors import BudgetError
from secateur.selection import Budget, Constraints, select

# Few units go from one to the next: those that another order would bring back are not gone by that order as well.
# Networks of many groups take every fourth.
SHARES = tuple(0.97 * 0.92**k for k in range(36))

CONSTRAINTS = {
    "plain": Constraints(),
    "rounded": Constraints(round_to=4, floor=2),
    "uniform": Constraints(uniform=True),
}
# A selection sees a method as a curve and an allocation: every model with every method once, under units and
# constraints in turn; and one method of each allocation under all of them, with branches that may go (the residual
# networks) and without.
TURNS = list(product([*UNITS, "variance"], CONSTRAINTS))
ONCE = [(name, method, *TURNS[n % len(TURNS)]) for n, (name, method) in enumerate(product(CASES, METHODS))]
ALL = [
    (name, m, *turn)
    for name in ("residual", "lenet5", "resnet20")
    for m in ("snp", "paper", "magnitude")
    for turn in TURNS
]


@pytest.mark.parametrize(("name", "method", "unit", "constrained"), dict.fromkeys([*ONCE, *ALL]))
def test_a_tighter_budget_keeps_a_subset(name: str, method: str, unit: str, constrained: str) -> None:
    constraints = CONSTRAINTS[constrained]
    _, graph, _ = calibrated(name)
    entries = list(rank(name, method))
    before = {entry.group.id: frozenset(range(entry.group.size)) for entry in entries}
    whole, shrunk = before, 0
    cost = None if unit == "variance" else cost_of(name, unit)
    for share in SHARES if len(entries) < 5 else SHARES[::4]:
        try:
            kept = select(
                graph, entries, Budget(**{unit: share}), METHODS[method].allocation, constraints, cost
            )
        except BudgetError:
            break
        found = {id: frozenset(units) for id, units in kept.items()}
        assert all(found[id] <= units for id, units in before.items())
        shrunk += found != whole
        before = found
    assert shrunk or constraints.round_to > 1


@pytest.mark.parametrize("method", list(METHODS))
def test_the_same_statistics_give_the_same_selection(method: str) -> None:
    _, graph, statistics = calibrated("residual")
    again = [METHODS[method].rank(graph, entry.group, statistics) for entry in rank("residual", method)]
    assert [entry.order for entry in again] == [entry.order for entry in rank("residual", method)]


@pytest.mark.parametrize("method", list(METHODS))
def test_a_budget_never_depends_on_those_asked_before(method: str) -> None:
    _, graph, _ = calibrated("residual")
    entries, allocation = list(rank("residual", method)), METHODS[method].allocation
    alone = select(graph, entries, Budget(macs=0.6), allocation)
    select(graph, entries, Budget(macs=0.5), allocation)
    assert select(graph, entries, Budget(macs=0.6), allocation) == alone


@pytest.mark.parametrize("unit", [*UNITS, "variance"])
@pytest.mark.parametrize("uniform", [False, True])
def test_budgets_are_nested_around_fixed_groups(unit: str, uniform: bool) -> None:
    _, graph, _ = calibrated("resnet20")
    entries = list(rank("resnet20", "snp"))
    constraints = Constraints(2, uniform=uniform, fixed={entries[1].group.id: 3, entries[5].group.id: 7})
    cost = None if unit == "variance" else cost_of("resnet20", unit)
    before, sizes = {e.group.id: frozenset(range(e.group.size)) for e in entries}, set()
    for share in (0.9, 0.8, 0.7, 0.6):
        kept = select(graph, entries, Budget(**{unit: share}), METHODS["snp"].allocation, constraints, cost)
        found = {id: frozenset(units) for id, units in kept.items()}
        assert all(found[id] <= units for id, units in before.items())
        assert (len(found[entries[1].group.id]), len(found[entries[5].group.id])) == (4, 8)
        sizes.add(sum(map(len, found.values())))
        before = found
    assert len(sizes) > 1
