"""Law 3: a budget is met, and not by more than one removal, or refused with what can be had."""

import pytest
from ranked import CASES, METHODS, calibrated, rank

from secateur.errors import BudgetError
from secateur.graph import Graph
from secateur.measure import parameters
from secateur.selection import Allocation, Budget, Constraints, Ranked, select
from secateur.selection.select import dense_amount, removal_order
from secateur.surgery import apply, make_plan

SHARES = (0.9, 0.6, 0.3, 0.02)


@pytest.mark.parametrize("unit", ["macs", "params"])
@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("name", CASES)
def test_a_budget_is_met_or_refused(name: str, method: str, unit: str) -> None:
    _, graph, _ = calibrated(name)
    entries, allocation = list(rank(name, method)), METHODS[method].allocation
    dense = dense_amount(graph, unit, {})
    smallest = least(graph, entries, allocation, unit)
    assert smallest < SHARES[0]
    for share in SHARES:
        if share >= smallest:
            kept = select(graph, entries, Budget(**{unit: share}), allocation)
            assert dense_amount(graph, unit, kept) <= share * dense
        else:
            with pytest.raises(BudgetError, match="out of reach"):
                select(graph, entries, Budget(**{unit: share}), allocation)


def least(graph: Graph, entries: list[Ranked], allocation: Allocation, unit: str) -> float:
    """Return the least share that can be had, as the message says; it must be true."""
    with pytest.raises(BudgetError, match=r"at least 0\.\d{3}") as refusal:
        select(graph, entries, Budget(**{unit: 1e-9}), allocation)
    share = float(str(refusal.value).split("at least ")[1][:5])
    kept = select(graph, entries, Budget(**{unit: share}), allocation)
    assert share - 0.001 <= dense_amount(graph, unit, kept) / dense_amount(graph, unit, {}) <= share
    return share


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("name", ["residual", "vgg16_bn", "flattened", "mixer"])
def test_one_removal_fewer_is_too_much(name: str, method: str) -> None:
    _, graph, _ = calibrated(name)
    entries, allocation = list(rank(name, method)), METHODS[method].allocation
    assert not any(entry.group.segments for entry in entries)
    limit = 0.7 * graph.total_macs()
    kept = select(graph, entries, Budget(macs=0.7), allocation)
    left = {entry.group.id: entry.group.size for entry in entries}
    before = dict(left)
    for _, g, _ in removal_order(graph, entries, allocation, "macs"):
        if all(
            max(n, 1 - entries[i].group.removable) == len(kept[id]) for i, (id, n) in enumerate(left.items())
        ):
            break
        before = dict(left)
        left[entries[g].group.id] -= 1
    units = {e.group.id: tuple(sorted(e.order[: max(before[e.group.id], 1)])) for e in entries}
    assert graph.total_macs(kept) <= limit < graph.total_macs(units)


@pytest.mark.parametrize("name", CASES)
def test_the_model_is_as_small_as_the_budget_says(name: str) -> None:
    model, graph, _ = calibrated(name)
    dense = parameters(model)
    kept = select(graph, list(rank(name, "magnitude")), Budget(params=0.8), METHODS["magnitude"].allocation)
    smaller = apply(model, make_plan(model, graph, kept))
    assert parameters(smaller) <= 0.8 * dense


@pytest.mark.parametrize("name", ["residual", "perceptron"])
def test_an_absolute_budget(name: str) -> None:
    _, graph, _ = calibrated(name)
    limit = int(0.7 * graph.params())
    for constraints in (Constraints(), Constraints(round_to=2)):
        kept = select(
            graph, list(rank(name, "snp")), Budget(params=limit), METHODS["snp"].allocation, constraints
        )
        assert graph.params(kept) <= limit


@pytest.mark.parametrize("name", CASES)
def test_variance_keeps_no_more_than_it_asks_for(name: str) -> None:
    _, graph, _ = calibrated(name)
    entries = rank(name, "paper")
    kept = select(graph, list(entries), Budget(variance=0.95), METHODS["paper"].allocation)
    for entry in entries:
        n = len(kept[entry.group.id])
        assert n == entry.group.size or 1 - float(entry.loss[n]) >= 0.95
        least = len(entry.group.segments) or 1
        assert n <= least or 1 - float(entry.loss[n - 1]) < 0.95
