"""Rounding with feedback, against the definition: each column's error goes to where the output's error is least."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur.quantisation import inverse_factor, rounded

cases = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(0, 99), st.booleans())


def problem(g: int, m: int, d: int, seed: int, zeros: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, moments of full rank and scales."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(g, 3 * d + 5, d, generator=rng).double() @ torch.randn(g, d, d, generator=rng).double()
    weight = torch.randn(g, m, d, generator=rng).double()
    if zeros:
        weight *= torch.rand(g, m, d, generator=rng) < 0.5
    scales = 0.05 + 0.3 * torch.rand(g, m, 1, generator=rng).double().expand(g, m, d)
    return weight, x.mT @ x / x.shape[1], scales


def definition(w: Tensor, h: Tensor, s: Tensor, most: int) -> Tensor:
    """One row: after each column, the columns behind are where the error is least given all that are fixed."""
    d, start, zero = len(w), w.clone(), w == 0
    q = torch.zeros_like(w)
    now = w.clone()
    for k in range(d):
        q[k] = 0.0 if zero[k] else (now[k] / s[k]).round().clamp(-most, most)
        fixed = q[: k + 1] * s[: k + 1] - start[: k + 1]
        # min over the rest r of (fixed, r) H (fixed, r): r = -H_rr^-1 H_rf fixed
        rest = (
            -torch.linalg.solve(h[k + 1 :, k + 1 :], h[k + 1 :, : k + 1] @ fixed) if k + 1 < d else fixed[:0]
        )
        now = torch.cat([q[: k + 1] * s[: k + 1], start[k + 1 :] + rest])
    return q


@given(cases)
def test_it_is_the_conditional_optimum_column_by_column(case: tuple[int, int, int, int, bool]) -> None:
    weight, moments, scales = problem(*case)
    found = rounded(weight, inverse_factor(moments, 0.0), scales, 7)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            assert torch.equal(found[i, j], definition(weight[i, j], moments[i], scales[i, j], 7))


@given(cases)
def test_the_inverse_is_that_of_the_damped_moments(case: tuple[int, int, int, int, bool]) -> None:
    _, moments, _ = problem(*case)
    upper = inverse_factor(moments, 0.1)
    unit = moments.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    damped = moments + 0.1 * unit * torch.eye(moments.shape[1]).double()
    torch.testing.assert_close(
        upper.mT @ upper @ damped, torch.eye(moments.shape[1]).double().expand_as(damped)
    )
    assert torch.equal(upper, upper.triu())


def test_zeros_stay_and_integers_are_within_range() -> None:
    weight, moments, scales = problem(2, 4, 40, 3, zeros=True)
    found = rounded(weight, inverse_factor(moments), 0.02 * scales, 7)
    assert torch.equal(found[weight == 0], torch.zeros_like(found[weight == 0]))
    assert float(found.abs().max()) == 7
    assert torch.equal(found, found.round())


def test_blocks_of_columns_make_no_difference() -> None:
    weight, moments, scales = problem(1, 3, 150, 4, zeros=False)
    upper = inverse_factor(moments)
    left, expected = weight.clone(), torch.zeros_like(weight)
    for k in range(150):
        expected[..., k] = (left[..., k] / scales[..., k]).round().clamp(-127, 127)
        error = (left[..., k] - expected[..., k] * scales[..., k]) / upper[:, None, k, k]
        left[..., k:] -= error[..., None] * upper[:, None, k, k:]
    assert torch.equal(rounded(weight, upper, scales, 127), expected)


def test_feedback_loses_less_than_rounding_to_nearest() -> None:
    weight, moments, scales = problem(1, 8, 64, 5, zeros=False)

    def error(integers: Tensor) -> float:
        lost = integers * scales - weight
        return float((lost @ moments * lost).sum())

    nearest = (weight / scales).round().clamp(-127, 127)
    assert error(rounded(weight, inverse_factor(moments), scales, 127)) < 0.8 * error(nearest)


def test_moments_of_dead_inputs_are_no_obstacle() -> None:
    weight, _, scales = problem(1, 2, 5, 6, zeros=False)
    upper = inverse_factor(torch.zeros(1, 5, 5).double())
    assert torch.equal(rounded(weight, upper, scales, 127), (weight / scales).round())
