"""How groups compete: keys that never increase along an order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur.selection import Allocation, LossPerCost, Standardised, Threshold, Uniform

curves = st.lists(st.floats(0, 1), min_size=1, max_size=20).map(
    lambda drops: torch.tensor([0.0, *drops], dtype=torch.float64).cumsum(0).flip(0)
)


@given(curves, st.floats(0.1, 1e9))
def test_keys_never_increase_along_the_order(loss: Tensor, cost: float) -> None:
    allocations: list[Allocation] = [Threshold(), Uniform(), LossPerCost(), Standardised()]
    for allocation in allocations:
        keys = allocation(loss, cost)
        assert keys.shape == (len(loss) - 1,)
        assert bool((keys.diff() <= 1e-9 * keys.abs().max()).all())


@given(curves, st.floats(0.1, 100))
def test_loss_per_cost_is_the_lower_convex_hull(loss: Tensor, cost: float) -> None:
    """Summed over what was removed, the keys make the greatest convex curve below the loss."""
    removed = loss.flip(0)
    hull = torch.cat(
        [torch.zeros(1, dtype=torch.float64), (LossPerCost()(loss, cost).flip(0) * cost).cumsum(0)]
    )
    n = len(removed) - 1
    assert bool((hull <= removed + 1e-9).all())
    assert float(hull[-1]) == pytest.approx(float(removed[-1]), abs=1e-9)
    for r in range(n + 1):  # at each point the lowest chord over it
        chords = [
            float(removed[a] + (removed[b] - removed[a]) * (r - a) / (b - a))
            for a in range(r + 1)
            for b in range(max(r, a + 1), n + 1)
        ]
        assert float(hull[r]) == pytest.approx(min(chords), abs=1e-9)


def test_dear_units_go_later_the_less_they_save() -> None:
    loss = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    assert torch.equal(LossPerCost()(loss, 10.0), LossPerCost()(loss, 1.0) / 10)


@given(curves, st.floats(0, 1))
def test_threshold_keeps_the_fewest_units_with_enough_variance(loss: Tensor, tau: float) -> None:
    loss = loss / loss[0].clamp_min(1e-12)
    kept = 1 - loss
    fewest = next(k for k in range(len(loss)) if float(loss[k]) <= 1 - tau)
    keys = Threshold()(loss, 3.0)
    assert int((keys > 1 - tau).sum()) == fewest
    assert float(kept[fewest]) >= tau - 1e-12
    assert fewest == 0 or float(kept[fewest - 1]) < tau


def test_uniform_is_the_share_that_is_gone() -> None:
    loss = torch.rand(5, dtype=torch.float64)
    assert Uniform()(loss, 1.0).tolist() == [1.0, 0.75, 0.5, 0.25]
