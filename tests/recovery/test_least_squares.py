"""Ridges towards the kept weights, on moments that may be as bad as they like."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur.recovery import RIDGES, Moments, choose_ridge, mean_squared_error, ridge
from secateur.recovery.least_squares import solve_with


def moments_of(x: Tensor, y: Tensor) -> Moments:
    """Return the moments of inputs (g, n, d) and targets (g, n, m)."""
    n = x.shape[1]
    return Moments(x.mT @ x / n, y.mT @ x / n, (y**2).mean(1), n)


def draw(
    seed: int, groups: int = 1, n: int = 40, d: int = 6, m: int = 3, worst: float = 0.0
) -> tuple[Tensor, ...]:
    """Return inputs, targets and kept weights; singular values of the inputs fall to 10^-worst."""
    rng = torch.Generator().manual_seed(seed)
    mix = torch.linalg.qr(torch.randn(groups, d, d, generator=rng, dtype=torch.float64)).Q
    scale = torch.logspace(0, -worst, d, dtype=torch.float64)
    x = torch.randn(groups, n, d, generator=rng, dtype=torch.float64) * scale @ mix
    start = torch.randn(groups, m, d, generator=rng, dtype=torch.float64)
    y = x @ start.mT + torch.randn(groups, n, m, generator=rng, dtype=torch.float64)
    return x, y, start


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_the_error_is_that_on_the_data(seed: int, groups: int) -> None:
    x, y, w = draw(seed, groups)
    expected = ((y - x @ w.mT) ** 2).mean(1)
    torch.testing.assert_close(mean_squared_error(moments_of(x, y), w), expected, rtol=1e-9, atol=1e-9)


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_a_tiny_ridge_is_least_squares(seed: int, groups: int) -> None:
    x, y, start = draw(seed, groups)
    expected = torch.linalg.lstsq(x, y).solution.mT
    torch.testing.assert_close(ridge(moments_of(x, y), start, 1e-12), expected, rtol=1e-6, atol=1e-6)


@given(st.integers(0, 10_000), st.sampled_from(RIDGES))
def test_it_solves_the_problem_that_it_states(seed: int, strength: float) -> None:
    """The gradient of E|y - W x|^2 + e |W - start|^2 is zero, each group with its own e."""
    x, y, start = draw(seed, 2)
    moments = moments_of(x * torch.tensor([1.0, 5.0]).view(2, 1, 1), y)
    w = ridge(moments, start, strength)
    e = strength * moments.xx.diagonal(dim1=1, dim2=2).mean(1).view(2, 1, 1)
    torch.testing.assert_close(
        w @ moments.xx - moments.yx + e * (w - start), torch.zeros_like(w), atol=1e-9, rtol=0
    )


def test_the_limit_of_a_large_ridge_is_the_kept_weights() -> None:
    x, y, start = draw(0)
    torch.testing.assert_close(ridge(moments_of(x, y), start, 1e12), start, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("block", range(4))
def test_it_never_raises_the_error_however_bad_the_moments(block: int) -> None:
    for seed in range(100 * block, 100 * block + 100):
        x, y, start = draw(seed, n=5 + seed % 20, d=8, worst=seed % 13)
        moments = moments_of(x, y)
        before = mean_squared_error(moments, start)
        for strength in (1e-6, 1e-2, 1.0):
            after = mean_squared_error(moments, ridge(moments, start, strength))
            assert bool((after <= before * (1 + 1e-9)).all()), (seed, strength)


@given(st.integers(0, 10_000))
def test_rounded_moments_do_not_stop_it(seed: int) -> None:
    """Moments summed from float32 may be indefinite: a stronger ridge, or at last the kept weights."""
    x, y, start = draw(seed, n=4, d=8, worst=6)
    exact = moments_of(x, y)
    noise = 1e-4 * torch.randn(8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rough = Moments(exact.xx + noise + noise.T, exact.yx, exact.yy, exact.count)
    assert bool(ridge(rough, start, 1e-6).isfinite().all())


def test_dead_inputs_keep_their_weights() -> None:
    x, y, start = draw(0)
    x[:, :, 2] = 0
    solved = ridge(moments_of(x, y), start, 1e-6)
    torch.testing.assert_close(solved[:, :, 2], start[:, :, 2])
    everything = ridge(moments_of(torch.zeros_like(x), y), start, 1e-6)
    torch.testing.assert_close(everything, start)


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(0, 8), st.sampled_from([3, 12]))
def test_the_choice_is_never_worse_than_no_repair_on_held_out_data(
    seed: int, groups: int, worst: int, m: int
) -> None:
    """Both ways, that for few outputs and that for more than there are inputs."""
    x, y, start = draw(seed, groups, n=20, d=8, m=m, worst=worst)
    fit, held = moments_of(x[:, :10], y[:, :10]), moments_of(x[:, 10:], y[:, 10:])
    strengths = choose_ridge(fit, held, start)
    solved = solve_with(fit, start, strengths)
    before = mean_squared_error(held, start)
    found = mean_squared_error(held, solved)
    near = (1e-5 if m > 8 else 1e-9) * (before + held.yy)  # errors of many outputs are compared in float32
    assert bool((found <= before + near).all())
    stayed = strengths.isinf()
    assert torch.equal(solved[stayed], start[stayed])
    for strength in RIDGES:  # and no other strength would have been better
        assert bool((found <= mean_squared_error(held, ridge(fit, start, strength)) + near).all())


@given(st.integers(0, 10_000), st.sampled_from([1e-30, 1e-12, 1e12, 1e30]), st.sampled_from([3, 12]))
def test_the_choice_is_the_same_in_any_unit(seed: int, unit: float, m: int) -> None:
    """Products may be in float32, which has not the range of float64."""
    x, y, start = draw(seed, 2, n=40, d=8, m=m)
    expected = choose_ridge(moments_of(x[:, :20], y[:, :20]), moments_of(x[:, 20:], y[:, 20:]), start)
    x, y = unit * x, unit * y
    found = choose_ridge(moments_of(x[:, :20], y[:, :20]), moments_of(x[:, 20:], y[:, 20:]), start)
    assert torch.equal(found, expected)


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_each_output_is_solved_with_its_own_strength(seed: int, groups: int) -> None:
    x, y, start = draw(seed, groups, m=5)
    moments = moments_of(x, y)
    options = torch.tensor([*RIDGES, float("inf")], dtype=torch.float64)
    chosen = options[torch.randint(len(options), (groups, 5), generator=torch.Generator().manual_seed(seed))]
    solved = solve_with(moments, start, chosen)
    for g in range(groups):
        for i in range(5):
            strength = float(chosen[g, i])
            expected = start if strength == float("inf") else ridge(moments, start, strength)
            torch.testing.assert_close(solved[g, i], expected[g, i], rtol=1e-9, atol=1e-12)


def test_each_output_has_its_own_strength() -> None:
    x, y, start = draw(1, n=400, d=8)
    y[:, :, 0] = x @ start[0, 0]  # nothing to repair: the kept weights are best
    fit, held = moments_of(x[:, :300], y[:, :300]), moments_of(x[:, 300:], y[:, 300:])
    strengths = choose_ridge(fit, held, start)
    assert len(set(strengths.flatten().tolist())) > 1 or bool(strengths[0, 0].isinf())


def test_joined_moments_are_those_of_all_samples() -> None:
    x, y, w = draw(2, 2)
    moments = moments_of(x, y)
    halves = moments_of(x[:, :10], y[:, :10]).joined(moments_of(x[:, 10:], y[:, 10:]))
    torch.testing.assert_close(halves.xx, moments.xx)
    torch.testing.assert_close(mean_squared_error(halves, w), mean_squared_error(moments, w))
    assert halves.count == moments.count
