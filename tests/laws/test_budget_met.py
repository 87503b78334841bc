"""Law 3: a budget is met, and not by more than one removal, or refused with what can be had."""

from collections.abc import Callable

import pytest
from ranked import CASES, METHODS, UNITS, calibrated, cost_of, rank
from torch import nn

from secateur.graph import Graph
from secateur.ground.errors import BudgetError
from secateur.measure import parameters, stored_bytes
from secateur.selection import Allocation, Budget, Constraints, Ranked, select
from secateur.selection.bundle import bundles
from secateur.selection.cost import COUNTS, CostModel
from secateur.selection.select import removal_order
from secateur.surgery import apply, make_plan

SHARES = (0.9, 0.6, 0.3, 0.02)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("name", CASES)
def test_a_budget_is_met_or_refused(name: str, method: str, unit: str) -> None:
    _, graph, _ = calibrated(name)
    entries, allocation = list(rank(name, method)), METHODS[method].allocation
    cost = cost_of(name, unit)
    dense = cost(graph, {})
    smallest = least(graph, entries, allocation, unit, cost)
    assert smallest < SHARES[0]
    for share in SHARES:
        if share >= smallest:
            kept = select(graph, entries, Budget(**{unit: share}), allocation, cost=cost)
            assert cost(graph, kept) <= share * dense
        else:
            with pytest.raises(BudgetError, match="out of reach"):
                select(graph, entries, Budget(**{unit: share}), allocation, cost=cost)


def least(graph: Graph, entries: list[Ranked], allocation: Allocation, unit: str, cost: CostModel) -> float:
    """Return the least share that can be had, as the message says; it must be true."""
    with pytest.raises(BudgetError, match=r"at least 0\.\d{3}") as refusal:
        select(graph, entries, Budget(**{unit: 1e-9}), allocation, cost=cost)
    share = float(str(refusal.value).split("at least ")[1][:5])
    kept = select(graph, entries, Budget(**{unit: share}), allocation, cost=cost)
    assert share - 0.001 <= cost(graph, kept) / cost(graph, {}) <= share
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
    for _, g, _ in removal_order(graph, bundles(entries, Constraints()), allocation, COUNTS["macs"]):
        if all(
            max(n, 1 - entries[i].group.removable) == len(kept[id]) for i, (id, n) in enumerate(left.items())
        ):
            break
        before = dict(left)
        left[entries[g].group.id] -= 1
    units = {e.group.id: tuple(sorted(e.order[: max(before[e.group.id], 1)])) for e in entries}
    assert graph.total_macs(kept) <= limit < graph.total_macs(units)


MEASURED: dict[str, Callable[[nn.Module], int]] = {"params": parameters, "bytes": stored_bytes}


@pytest.mark.parametrize("unit", list(MEASURED))
@pytest.mark.parametrize("name", CASES)
def test_the_model_is_as_small_as_the_budget_says(name: str, unit: str) -> None:
    model, graph, _ = calibrated(name)
    measured = MEASURED[unit]
    dense = measured(model)
    kept = select(
        graph, list(rank(name, "magnitude")), Budget(**{unit: 0.9}), METHODS["magnitude"].allocation
    )
    smaller = measured(apply(model, make_plan(model, graph, kept)))
    assert smaller <= 0.9 * dense
    assert smaller == COUNTS[unit](graph, kept)


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


@pytest.mark.parametrize("constraints", [Constraints(uniform=True), Constraints(round_to=4, uniform=True)])
@pytest.mark.parametrize("name", ["resnet20", "residual", "vgg16_bn"])
def test_uniform_widths_meet_a_budget(name: str, constraints: Constraints) -> None:
    _, graph, _ = calibrated(name)
    entries = list(rank(name, "snp"))
    kept = select(graph, entries, Budget(macs=0.6), METHODS["snp"].allocation, constraints)
    assert graph.total_macs(kept) <= 0.6 * graph.total_macs()
    widths: dict[tuple[str, int], set[int]] = {}
    for entry in entries:
        widths.setdefault((entry.group.kind, entry.group.size), set()).add(len(kept[entry.group.id]))
    assert all(len(found) == 1 for found in widths.values())


def test_fixed_groups_keep_what_they_were_given_and_the_others_pay() -> None:
    _, graph, _ = calibrated("resnet20")
    entries = list(rank("resnet20", "snp"))
    first, second = entries[0].group, entries[1].group
    fixed = Constraints(fixed={first.id: first.size, second.id: 3}, round_to=2)
    kept = select(graph, entries, Budget(macs=0.6), METHODS["snp"].allocation, fixed)
    assert len(kept[first.id]) == first.size
    assert set(kept[second.id]) == set(entries[1].order[:4])
    assert graph.total_macs(kept) <= 0.6 * graph.total_macs()
    with pytest.raises(BudgetError, match=rf"at its floor \(fixed: {first.id}"):
        select(graph, entries, Budget(macs=0.001), METHODS["snp"].allocation, fixed)
