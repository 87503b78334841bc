"""Levels as reals: the operator of exported graphs gives what bytes give, whatever comes in."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateur.ground.errors import KernelError
from secateur.ground.levels import Levels, levelled

floats = st.floats(width=32, allow_nan=True, allow_infinity=True)


@st.composite
def levels(draw: st.DrawFn) -> Levels:
    most = draw(st.integers(1, 255))
    scale = draw(st.floats(2.0**-20, 2.0**20, width=32))
    return Levels(scale, draw(st.integers(0, most)), most)


@given(levels(), st.lists(floats, min_size=1, max_size=20))
def test_reals_are_those_of_the_bytes(of: Levels, values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    assert torch.equal(of.simulated(x), of.real(of.of(x)))


@given(levels())
def test_every_level_stays_where_it_is(of: Levels) -> None:
    reals = of.real(torch.arange(of.most + 1).to(torch.uint8))
    assert torch.equal(of.simulated(reals), reals)
    assert torch.equal(of.of(reals).long(), torch.arange(of.most + 1))


@given(levels(), st.floats(0, 1))
def test_error_between_the_ends_is_half_a_step(of: Levels, share: float) -> None:
    low, high = of.reals
    x = torch.tensor([low + share * (high - low)])
    assert float((of.simulated(x) - x).abs()) <= 0.5001 * of.scale + 1e-6 * abs(float(x))


def test_what_is_no_number_is_documented() -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan])
    assert Levels(0.5, 3, 7).simulated(x).tolist() == [2.0, -1.5, 0.0]


def test_gradients_go_straight_through_between_the_ends() -> None:
    x = torch.tensor([-9.0, 0.3, 9.0], requires_grad=True)
    Levels(0.5, 3, 7).simulated(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 0.0]


def test_exported_with_a_free_batch_it_stays_one_operator() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Levels(0.5, 3, 7).simulated(x)

    x = torch.randn(3, 4)
    program = torch.export.export(Net(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert [n.target for n in program.graph.nodes if n.op == "call_function"] == [
        torch.ops.secateur.in_levels.default
    ]
    more = torch.randn(7, 4)
    assert torch.equal(program.module()(more), Net()(more))
    plainly = program.run_decompositions({torch.ops.secateur.in_levels.default: levelled})
    assert not any("secateur" in str(n.target) for n in plainly.graph.nodes)
    assert torch.equal(plainly.module()(more), Net()(more))


@pytest.mark.parametrize(
    "wrong", [(0.0, 0, 255), (math.nan, 0, 255), (1.0, 9, 8), (1.0, 0, 256), (1.0, -1, 5)]
)
def test_levels_that_cannot_be_are_refused(wrong: tuple[float, int, int]) -> None:
    with pytest.raises(KernelError, match="Levels"):
        Levels(*wrong)
