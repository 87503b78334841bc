"""Ranges of what layers read, and scales of weights: those with the least error of all that are tried."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.ground.errors import CalibrationError
from secateur.ground.levels import Levels
from secateur.quantisation import Range, chosen_levels, chosen_scales, error_of
from secateur.quantisation.ranges import levels_between

ends = st.floats(-1e4, 1e4, width=32)


@given(ends, ends, st.sampled_from([127, 255]))
def test_levels_reach_both_ends_and_zero(a: float, b: float, most: int) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    found = levels_between(low, high, most)
    assert found.simulated(torch.zeros(1)).tolist() == [0.0]
    step = found.scale * 1.0001
    assert found.reals[0] <= low + step
    assert found.reals[1] >= high - step
    assert torch.tensor(found.scale, dtype=torch.float32).item() == found.scale


def test_a_far_outlier_is_clipped_where_that_costs_less() -> None:
    x = torch.cat([torch.randn(5000, 1, generator=torch.Generator().manual_seed(0)), torch.tensor([[8.0]])])
    importance = torch.ones(1).double()
    found = chosen_levels(float(x.min()), 8.0, 15, lambda levels: error_of(levels, x, importance))
    assert found.reals[1] < 4.5
    assert error_of(found, x, importance) < error_of(levels_between(float(x.min()), 8.0, 15), x, importance)


def test_what_nothing_reads_does_not_choose_the_range() -> None:
    x = torch.stack([torch.linspace(0, 1, 1000), torch.linspace(0, 8, 1000)], 1)
    found = chosen_levels(
        0.0, 8.0, 255, lambda levels: error_of(levels, x, torch.tensor([1.0, 0.0]).double())
    )
    assert 1.0 <= found.reals[1] < 1.2


def test_a_range_looks_at_all_for_its_ends_and_at_what_is_held_out_for_the_error() -> None:
    ranged = Range("fc", 1, 0, torch.ones(2).double())
    ranged.begin(torch.tensor([False, True]), torch.Generator().manual_seed(0))
    ranged.watch()((torch.tensor([[-4.0, 4.0], [1.0, 0.5]]),), None)
    found = ranged.levels(255)
    assert found.zero == 0 or found.reals[0] >= -4.0
    assert float((found.simulated(torch.tensor([1.0, 0.5])) - torch.tensor([1.0, 0.5])).abs().max()) < 0.01


def test_a_range_of_what_is_not_finite_is_an_error() -> None:
    ranged = Range("fc", 1, 0, torch.ones(1).double())
    ranged.begin(torch.tensor([False]), torch.Generator())
    ranged.watch()((torch.tensor([[torch.nan]]),), None)
    with pytest.raises(CalibrationError, match="fc reads is not finite"):
        ranged.levels(255)


def test_constant_zero_has_levels() -> None:
    assert levels_between(0.0, 0.0, 255) == Levels(levels_between(0.0, 0.0, 255).scale, 0)


def test_scales_are_of_least_error_among_shares() -> None:
    rng = torch.Generator().manual_seed(1)
    weight, importance = (
        torch.randn(1, 3, 32, generator=rng).double() ** 3,
        torch.rand(1, 32, generator=rng).double(),
    )
    owner = torch.arange(32) // 16
    found = chosen_scales(weight, importance, 7, owner)
    assert found.shape == (1, 3, 2)
    assert torch.equal(found, found.float().double())

    def error(scales: torch.Tensor) -> torch.Tensor:
        each = scales[..., owner]
        lost = (weight - (weight / each).round().clamp(-7, 7) * each) ** 2 * importance[:, None]
        return torch.stack([lost[..., :16].sum(-1), lost[..., 16:].sum(-1)], -1)

    whole = torch.stack([weight[..., :16].abs().amax(-1), weight[..., 16:].abs().amax(-1)], -1) / 7
    for share in (1.0, 0.85, 0.7):
        assert bool((error(found) <= error((share * whole).float().double()) + 1e-12).all())


def test_scales_of_zeros_are_one() -> None:
    found = chosen_scales(
        torch.zeros(1, 2, 4).double(), torch.ones(1, 4).double(), 127, torch.zeros(4).long()
    )
    assert found.tolist() == [[[1.0], [1.0]]]
