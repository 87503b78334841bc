"""The steps of ADMM for one weight, in float64 against the problems that they solve."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.blocks import KEEP, UNIFY, ZERO, Block, BlockPattern, Partition, block_costs, choose
from secateur.blocks.splitting import Split, norm, pull_for, shared

PARTITION = Partition(Block(4, 1), (8, 6))


def tensors(seed: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 6, generator=generator, dtype=torch.float64) for _ in range(count)]


def pattern(seed: int, zero: float = 0.5, unify: float = 0.25) -> BlockPattern:
    (weight,) = tensors(seed, 1)
    return choose(PARTITION, block_costs(PARTITION, weight), zero, unify)


def state_of_each_weight(found: BlockPattern) -> Tensor:
    return found.partition.spread(found.states)


@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
@settings(max_examples=25, deadline=None)
def test_a_pull_solves_the_proximal_problem_where_blocks_change(seed: int, strength: float) -> None:
    """``min 1/2 |X - W|^2 + s/2 |X - Z + U|^2``: its gradient is zero; kept weights are not touched."""
    weight, dual = tensors(seed, 2)
    chosen = pattern(seed + 1)
    split = Split.of(chosen, chosen.project(tensors(seed + 2, 1)[0]), dual)
    found = weight.clone()
    split.pull(found, strength)
    kept = state_of_each_weight(chosen) == KEEP
    slope = (found - weight) + strength * (found - split.copy + dual)
    assert torch.equal(found[kept], weight[kept])
    assert slope[~kept].abs().max() <= 1e-12 * (1 + strength) * 10


@given(st.integers(1, 60), st.floats(0.01, 0.9))
@settings(max_examples=25, deadline=None)
def test_after_so_many_pulls_the_wanted_rest_of_the_way_is_left(steps: int, rest: float) -> None:
    (weight,) = tensors(steps, 1)
    split = Split.start(pattern(3), weight)
    before = norm({"w": split.gap(weight)})
    for _ in range(steps):
        split.pull(weight, pull_for(rest, steps))
    assert norm({"w": split.gap(weight)}) == pytest.approx(rest * before, rel=1e-9)


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_a_renewal_projects_the_point_and_the_dual_takes_what_is_left(seed: int) -> None:
    weight, dual = tensors(seed, 2)
    chosen = pattern(seed + 1)
    old = Split.of(chosen, chosen.project(weight), dual * (state_of_each_weight(chosen) != KEEP))
    point = weight + old.dual
    nearest = choose(PARTITION, block_costs(PARTITION, point), 0.5, 0.25)
    new = old.renewed(nearest, weight)
    states = state_of_each_weight(nearest)
    assert nearest.obeyed(new.copy)
    torch.testing.assert_close(new.copy, nearest.project(point), rtol=0, atol=0)
    torch.testing.assert_close(new.dual + new.copy, point, rtol=1e-12, atol=1e-12)
    assert torch.equal(new.dual[states == ZERO], point[states == ZERO])
    assert not new.dual[states == KEEP].any()
    assert not new.gap(weight)[states == KEEP].any()
    sums = PARTITION.blocks(torch.where(states == UNIFY, new.dual * new.copy.sign(), 0.0)).sum((-3, -2, -1))
    assert sums.abs().max() < 1e-12  # about the mean: along the signs nothing is left


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_duals_alone_do_not_change_the_choice(seed: int) -> None:
    """Where the weights follow all the way and the loss does not resist, the same zero blocks are chosen again."""
    (weight,) = tensors(seed, 1)
    first = choose(PARTITION, block_costs(PARTITION, weight), 0.5)
    split = Split.start(first, weight)
    for _ in range(4):
        for _ in range(10):
            split.pull(weight, pull_for(0.3, 10))
        found = choose(PARTITION, block_costs(PARTITION, weight + split.dual), 0.5)
        assert found == first
        split = split.renewed(found, weight)


def test_what_a_new_choice_leaves_of_an_old_one() -> None:
    def states(*values: int) -> dict[str, BlockPattern]:
        grid = torch.tensor(values, dtype=torch.int8).view(1, 2, 2, 1)
        return {"w": BlockPattern(Partition(Block(4, 1), (8, 2)), grid)}

    old = states(ZERO, KEEP, KEEP, UNIFY)
    assert shared(old, old) == 1
    assert shared(old, states(KEEP, ZERO, KEEP, ZERO)) == 1 / 2
    assert shared(old, states(ZERO, UNIFY, ZERO, UNIFY)) == 0
    assert shared(states(ZERO, UNIFY, UNIFY, ZERO), states(ZERO, UNIFY, KEEP, KEEP)) == 1 / 2
    assert shared(states(ZERO, ZERO, ZERO, ZERO), old) == 1
    both = {"a": old["w"], "b": states(KEEP, KEEP, KEEP, KEEP)["w"]}
    assert shared(both, {"a": old["w"], "b": states(ZERO, KEEP, KEEP, KEEP)["w"]}) == pytest.approx(5 / 6)


def test_the_norm_is_that_of_all_tensors_together() -> None:
    a, b = tensors(0, 2)
    assert norm({"a": a, "b": b}) == pytest.approx(float(torch.cat([a, b]).norm()), rel=1e-12)
