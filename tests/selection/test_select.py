"""One order of removal over all groups, and the shortest prefix that suffices."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import SMALL

from secateur.graph import Graph, Segment, trace
from secateur.ground.errors import BudgetError
from secateur.selection import (
    Allocation,
    Budget,
    Constraints,
    LossPerCost,
    Ranked,
    Threshold,
    Uniform,
    select,
)
from secateur.selection.bundle import bundles
from secateur.selection.cost import COUNTS
from secateur.selection.select import removal_order, unit_cost

ALLOCATIONS: list[Allocation] = [Uniform(), Threshold(), LossPerCost()]
NAMES = ["residual", "dense", "depthwise", "grouped", "perceptron"]


@cache
def graph_of(name: str) -> Graph:
    case = next(case for case in SMALL if case.name == name)
    return trace(case.model(), case.inputs())


def ranked(graph: Graph, seed: int = 0) -> list[Ranked]:
    """Random orders and loss curves of every group."""
    rng = torch.Generator().manual_seed(seed)
    found = []
    for group in graph.groups:
        order = torch.randperm(group.size, generator=rng).tolist()
        drops = torch.rand(group.size, generator=rng, dtype=torch.float64) ** 4
        loss = torch.cat([torch.zeros(1, dtype=torch.float64), drops.cumsum(0)]).flip(0)
        found.append(Ranked(group, tuple(order), loss / loss[0]))
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("unit", ["macs", "params"])
@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=repr)
def test_the_budget_is_met_and_one_removal_fewer_exceeds_it(
    name: str, unit: str, allocation: Allocation
) -> None:
    graph, entries = graph_of(name), ranked(graph_of(name))
    cost = COUNTS[unit]
    limit = 0.6 * cost(graph, {})
    kept = select(graph, entries, Budget(**{unit: 0.6}), allocation)
    assert cost(graph, kept) <= limit
    sequence = removal_order(graph, bundles(entries, Constraints()), allocation, cost)
    gone = sum(g.size - len(kept[g.id]) for g in graph.groups)
    # Replay: the shortest prefix that makes this selection, and the one before.
    counts = {g.id: g.size for g in graph.groups}
    for _, g, _ in sequence[: gone - 1]:
        counts[entries[g].group.id] -= 1
    if all(counts.values()) and not any(e.group.segments for e in entries):
        fewer = {e.group.id: tuple(sorted(e.order[: counts[e.group.id]])) for e in entries}
        assert cost(graph, fewer) > limit


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=repr)
@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 2))
def test_a_tighter_budget_keeps_a_subset(
    name: str, allocation: Allocation, seed: int, round_to: int, floor: int
) -> None:
    graph, entries = graph_of(name), ranked(graph_of(name), seed)
    constraints = Constraints(round_to, floor)
    before = {g.id: set(range(g.size)) for g in graph.groups}
    for share in (0.999, 0.9, 0.8, 0.7):
        try:
            kept = select(graph, entries, Budget(macs=share), allocation, constraints)
        except BudgetError:
            break
        assert all(set(kept[id]) <= units for id, units in before.items())
        before = {id: set(units) for id, units in kept.items()}


@pytest.mark.parametrize("unit", COUNTS)
def test_a_budget_that_the_whole_model_fits_is_refused(unit: str) -> None:
    """Half of what is printed for a batch, say, or a share that was meant to be what goes."""
    graph = graph_of("residual")
    dense = int(COUNTS[unit](graph, {}))
    for value in (1.0, dense, dense + 1, 10 * dense):
        with pytest.raises(BudgetError, match=rf"is no cut: the whole model has {dense:,} {unit}.*below"):
            select(graph, ranked(graph), Budget(**{unit: value}), Uniform())
    kept = select(graph, ranked(graph), Budget(**{unit: dense - 1}), Uniform())
    assert sum(map(len, kept.values())) < sum(g.size for g in graph.groups)
    some = graph.groups[0].id
    fixed = select(graph, ranked(graph), Budget(**{unit: 1.0}), Uniform(), Constraints(fixed={some: 2}))
    assert {id: len(units) for id, units in fixed.items()} == {g.id: g.size for g in graph.groups} | {some: 2}


@pytest.mark.parametrize("name", NAMES)
def test_units_are_those_that_come_first(name: str) -> None:
    graph, entries = graph_of(name), ranked(graph_of(name), 3)
    kept = select(graph, entries, Budget(macs=0.7), LossPerCost())
    for entry in entries:
        if not entry.group.segments:
            assert set(kept[entry.group.id]) == set(entry.order[: len(kept[entry.group.id])])


@pytest.mark.parametrize("round_to", [2, 4])
@pytest.mark.parametrize("name", ["residual", "perceptron"])
def test_kept_units_come_in_multiples(name: str, round_to: int) -> None:
    graph = graph_of(name)
    kept = select(graph, ranked(graph), Budget(macs=0.7), Uniform(), Constraints(round_to))
    for group in graph.groups:
        assert len(kept[group.id]) % round_to == 0 or len(kept[group.id]) == group.size
    assert any(len(kept[g.id]) < g.size for g in graph.groups)


def test_no_group_falls_below_the_floor() -> None:
    graph = graph_of("residual")
    kept = select(graph, ranked(graph), Budget(macs=0.7), LossPerCost(), Constraints(floor=4))
    assert all(len(kept[g.id]) >= min(4, g.size) for g in graph.groups)


def test_a_branch_may_fall_to_nothing_and_others_keep_one() -> None:
    graph = graph_of("residual")
    entries = ranked(graph)
    assert any(e.group.removable for e in entries)
    smallest = {e.group.id: (() if e.group.removable else e.order[:1]) for e in entries}
    least = graph.total_macs(smallest)
    kept = select(graph, entries, Budget(macs=least), Uniform())
    assert {id: len(units) for id, units in kept.items()} == {
        id: len(units) for id, units in smallest.items()
    }
    stay = select(graph, entries, Budget(macs=0.5), Uniform(), Constraints(whole_branches=False))
    assert all(stay.values())
    with pytest.raises(BudgetError):
        select(graph, entries, Budget(macs=least), Uniform(), Constraints(whole_branches=False))


@given(st.integers(0, 500), st.integers(1, 3))
def test_every_segment_keeps_a_unit(seed: int, round_to: int) -> None:
    graph = graph_of("perceptron")
    entries = ranked(graph, seed)
    pieces = tuple(Segment(frozenset(s), "a piece") for s in ({0, 1}, {2, 3, 4}, {4, 5}))
    first = replace(entries[0], group=replace(entries[0].group, segments=pieces))
    entries = [first, *entries[1:]]
    before = set(range(first.group.size))
    for share in (0.9, 0.7, 0.5, 0.45):
        kept = select(graph, entries, Budget(macs=share), Uniform(), Constraints(round_to))[first.group.id]
        assert all(piece.units & set(kept) for piece in pieces)
        assert len(kept) % round_to == 0 or len(kept) == first.group.size
        assert set(kept) <= before
        before = set(kept)


def test_variance_is_one_threshold_for_all_groups() -> None:
    graph = graph_of("residual")
    entries = ranked(graph)
    kept = select(graph, entries, Budget(variance=0.9), LossPerCost())
    for entry in entries:
        fewest = next(k for k in range(entry.group.size + 1) if 1 - float(entry.loss[k]) >= 0.9)
        assert len(kept[entry.group.id]) == max(fewest, 0 if entry.group.removable else 1)
    everything = select(graph, entries, Budget(variance=1.0), LossPerCost())
    assert all(len(everything[g.id]) == g.size for g in graph.groups)


def test_out_of_reach() -> None:
    graph = graph_of("residual")
    with pytest.raises(
        BudgetError, match=r"1\.0% of macs\) is out of reach.*at its floor.*Ask for at least 0\.\d{3}"
    ) as e:
        select(graph, ranked(graph), Budget(macs=0.01), LossPerCost())
    share = float(str(e.value).split("at least ")[1][:5])
    select(graph, ranked(graph), Budget(macs=share), LossPerCost())  # what the message says can be had


@pytest.mark.parametrize("budget", [Budget(macs=0.5), Budget(variance=0.9)])
def test_no_groups(budget: Budget) -> None:
    with pytest.raises(BudgetError, match="no group of this model may be pruned"):
        select(graph_of("residual"), [], budget, LossPerCost())


@pytest.mark.parametrize("wrong", [{"round_to": 0}, {"floor": 0}, {"round_to": -2}])
def test_constraints_are_positive(wrong: dict[str, int]) -> None:
    with pytest.raises(BudgetError, match="at least 1"):
        Constraints(**wrong)


def test_a_unit_costs_what_the_dense_model_would_save() -> None:
    graph = graph_of("perceptron")
    first = bundles(ranked(graph), Constraints())[0]
    assert unit_cost(graph, first, COUNTS["macs"]) == 6 + 8
    assert unit_cost(graph, first, COUNTS["params"]) == 6 + 1 + 2 + 8
