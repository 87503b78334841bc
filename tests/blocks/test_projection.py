"""Exact projections, against all patterns tried one by one."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.blocks import (
    KEEP,
    UNIFY,
    ZERO,
    Block,
    BlockPattern,
    Costs,
    Joint,
    Partition,
    PruneFirst,
    block_costs,
    choose,
    project,
)
from secateur.ground.errors import StructureError

WEIGHTS = st.integers(0, 2**31)


def random_weight(seed: int, shape: tuple[int, ...], whole: bool) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    if whole:  # many ties, many zeros
        return torch.randint(-2, 3, shape, generator=rng).double()
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def all_states(n: int, zeros: int, unified: int) -> list[torch.Tensor]:
    found = []
    for z in itertools.combinations(range(n), zeros):
        rest = [i for i in range(n) if i not in z]
        for u in itertools.combinations(rest, unified):
            states = torch.zeros(n, dtype=torch.int8)
            states[list(z)] = ZERO
            states[list(u)] = UNIFY
            found.append(states)
    return found


@settings(max_examples=80, deadline=None)
@given(WEIGHTS, st.booleans(), st.integers(0, 6), st.integers(0, 6))
def test_the_projection_is_the_nearest_of_all(seed: int, whole: bool, zeros: int, unified: int) -> None:
    unified = min(unified, 6 - zeros)
    partition = Partition(Block(2, 2), (3, 5))  # ragged both ways: 2 x 3 blocks
    weight = random_weight(seed, (3, 5), whole)
    found, pattern = project(weight, partition, zeros / 6, unified / 6)
    assert [int((pattern.states == s).sum()) for s in (ZERO, UNIFY)] == [zeros, unified]
    assert pattern.obeyed(found)
    least = min(
        float(((BlockPattern(partition, s.view(partition.grid)).project(weight) - weight) ** 2).sum())
        for s in all_states(6, zeros, unified)
    )
    assert float(((found - weight) ** 2).sum()) == pytest.approx(least, rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, st.booleans())
def test_no_point_of_the_pattern_is_nearer(seed: int, whole: bool) -> None:
    partition = Partition(Block(2, 3), (4, 6))
    weight = random_weight(seed, (4, 6), whole)
    found, pattern = project(weight, partition, 0.25, 0.5)
    rng = torch.Generator().manual_seed(seed)
    for _ in range(20):
        signs = torch.where(torch.rand(4, 6, generator=rng) < 0.5, -1.0, 1.0).double()
        other = pattern.with_magnitudes(
            torch.where(pattern.unified(), signs, weight),
            torch.rand(partition.grid, generator=rng, dtype=torch.float64),
        )
        assert ((found - weight) ** 2).sum() <= ((other - weight) ** 2).sum() + 1e-12


def test_costs_are_the_squared_errors_of_projecting() -> None:
    partition = Partition(Block(4, 1), (6, 3, 3))
    weight = torch.randn(6, 3, 3, generator=torch.Generator().manual_seed(1)).double()
    costs = block_costs(partition, weight)
    for state, expected in ((ZERO, costs.zero), (UNIFY, costs.unify)):
        for i in range(partition.count):
            states = torch.zeros(partition.count, dtype=torch.int8)
            states[i] = state
            moved = BlockPattern(partition, states.view(partition.grid)).project(weight) - weight
            assert float((moved**2).sum()) == pytest.approx(float(expected[i]), abs=1e-12)
    assert bool((costs.unify <= costs.zero).all())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=7), st.data())
def test_the_joint_choice_is_the_cheapest_under_ties(
    pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    unify = torch.tensor([float(min(p)) for p in pairs]).double()
    zero = torch.tensor([float(max(p)) for p in pairs]).double()
    zeros = data.draw(st.integers(0, len(pairs)))
    unified = data.draw(st.integers(0, len(pairs) - zeros))

    def total(states: torch.Tensor) -> float:
        return float(zero[states == ZERO].sum() + unify[states == UNIFY].sum())

    states = Joint()(Costs(zero, unify, zero), zeros, unified)
    assert [int((states == s).sum()) for s in (ZERO, UNIFY)] == [zeros, unified]
    assert total(states) == min(map(total, all_states(len(pairs), zeros, unified)))


@settings(max_examples=30, deadline=None)
@given(WEIGHTS, st.sampled_from([Joint(), PruneFirst(), PruneFirst(relative=True)]))
def test_tighter_shares_keep_a_subset(seed: int, assignment: Joint | PruneFirst) -> None:
    """Law 5: more zeros never bring a zero block back, and the blocks that are kept only become fewer."""
    partition = Partition(Block(2, 1), (16, 12))
    costs = block_costs(partition, random_weight(seed, (16, 12), whole=False))
    before = None
    for zero in (0.0, 0.2, 0.35, 0.5, 0.7, 0.8):
        states = choose(partition, costs, zero, 0.2, assignment).states
        if before is not None:
            assert bool((states[before == ZERO] == ZERO).all())
            assert bool((before[states == KEEP] == KEEP).all())
        before = states


def test_a_pattern_within_another_only_adds() -> None:
    partition = Partition(Block(4, 1), (16, 8))
    costs = block_costs(partition, random_weight(3, (16, 8), whole=False))
    pruned = choose(partition, costs, 0.5)
    both = choose(partition, costs, 0.5, 0.25, within=pruned)
    assert torch.equal(both.states == ZERO, pruned.states == ZERO)
    assert both.share(UNIFY) == 0.25
    with pytest.raises(StructureError, match="more blocks changed"):
        choose(partition, costs, 0.25, within=pruned)
    with pytest.raises(StructureError, match="start from"):
        choose(Partition(Block(2, 1), (16, 8)), costs, 0.25, within=pruned)


def test_relative_ranking_does_not_favour_small_weights() -> None:
    weight = torch.tensor(
        [[0.1, 5.0], [0.3, 5.4]]
    ).double()  # small and unequal beside large and nearly equal
    partition = Partition(Block(2, 1), (2, 2))
    plain, relative = (project(weight, partition, 0, 0.5, PruneFirst(r))[1] for r in (False, True))
    assert plain.states.flatten().tolist() == [UNIFY, KEEP]
    assert relative.states.flatten().tolist() == [KEEP, UNIFY]


@pytest.mark.parametrize(("zero", "unify"), [(-0.1, 0), (1.1, 0), (0, float("nan")), (0.7, 0.4), (True, 0)])
def test_shares_out_of_range_are_refused(zero: float, unify: float) -> None:
    with pytest.raises(StructureError, match=r"zero=|unify="):
        project(torch.ones(4, 4), Partition(Block(2, 1), (4, 4)), zero, unify)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_projected_weight_obeys_its_pattern_bit_by_bit(dtype: torch.dtype) -> None:
    weight = torch.randn(33, 7, 3, 3, generator=torch.Generator().manual_seed(5)).to(dtype)
    found, pattern = project(weight, Partition(Block(8, 4), (33, 7, 3, 3)), 0.4, 0.4)
    assert found.dtype == dtype
    assert pattern.obeyed(found)
    if dtype != torch.float64:
        assert torch.equal(pattern.project(found), found)
    changed = found.clone()
    changed[pattern.unified().nonzero()[0].unbind()] *= 1.5
    assert not pattern.obeyed(changed)


def test_states_are_checked() -> None:
    partition = Partition(Block(2, 1), (4, 2))
    for states in (
        torch.zeros(partition.grid),
        torch.zeros(3, dtype=torch.int8),
        torch.full(partition.grid, 3).char(),
    ):
        with pytest.raises(StructureError):
            BlockPattern(partition, states)


@settings(max_examples=40, deadline=None)
@given(WEIGHTS)
def test_a_pattern_is_seen_in_the_weight_that_obeys_it(seed: int) -> None:
    partition = Partition(Block(4, 2), (10, 5, 3))
    weight, pattern = project(random_weight(seed, (10, 5, 3), whole=False), partition, 0.3, 0.3)
    assert BlockPattern.observed(partition, weight) == pattern
