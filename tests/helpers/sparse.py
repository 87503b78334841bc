"""Random layers with zero or unified blocks, and what they compute in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from secateur.runtime import HEIGHTS, Activation
from secateur.runtime.dense import ACTIVATIONS
from secateur.runtime.geometry import Window

__all__ = ["ConvCase", "LinearCase", "blocked", "conv_cases", "linear_cases", "unified"]


def blocked(rows: int, columns: int, height: int, zeros: float, rng: torch.Generator) -> Tensor:
    """Return a random matrix of which a share of the blocks of `height` rows x 1 is zero."""
    blocks = torch.rand(-(-rows // height), columns, generator=rng) >= zeros
    return torch.randn(rows, columns, generator=rng) * blocks.repeat_interleave(height, 0)[:rows]


def unified(rows: int, columns: int, height: int, zeros: float, kept: float, rng: torch.Generator) -> Tensor:
    """Return random blocks of height x 4: a share zero, a share of any values, the rest of one magnitude."""
    shape = (-(-rows // height), -(-columns // 4))
    drawn = torch.rand(shape, generator=rng)
    magnitude = torch.rand(shape, generator=rng) + 0.1

    def spread(x: Tensor) -> Tensor:
        return x.repeat_interleave(height, 0).repeat_interleave(4, 1)[:rows, :columns]

    noise = torch.randn(rows, columns, generator=rng)
    one = torch.where(spread(drawn) < zeros + kept, noise, noise.sign() * spread(magnitude))
    return torch.where(spread(drawn) < zeros, 0.0, one)


@dataclass(frozen=True)
class LinearCase:
    """A linear layer and a batch, by its numbers; tensors follow from the seed."""

    rows: int
    columns: int
    samples: int
    height: int
    zeros: float
    unified: bool
    activation: Activation
    residual: bool
    add_last: bool
    threads: int
    seed: int


@dataclass(frozen=True)
class ConvCase:
    """A convolution and images, by its numbers."""

    layer: LinearCase
    groups: int
    window: Window
    size: tuple[int, int]


def finished(sums: Tensor, residual: Tensor | None, case: LinearCase) -> Tensor:
    """Return sums (float64) with residual and activation."""
    activate = ACTIVATIONS[case.activation]
    if residual is None:
        return activate(sums)
    return activate(sums) + residual if case.add_last else activate(sums + residual)


@st.composite
def linear_cases(draw: st.DrawFn, inputs: int = 90) -> LinearCase:
    """Draw a linear layer."""
    return LinearCase(
        rows=draw(st.integers(1, 70)),
        columns=draw(st.integers(1, inputs)),
        samples=draw(st.one_of(st.integers(0, 9), st.integers(10, 130))),
        height=draw(st.sampled_from(HEIGHTS)),
        zeros=draw(st.sampled_from((0.0, 0.5, 0.9, 1.0))),
        unified=draw(st.booleans()),
        activation=draw(st.sampled_from(Activation)),
        residual=draw(st.booleans()),
        add_last=draw(st.booleans()),
        threads=draw(st.sampled_from((1, 2))),
        seed=draw(st.integers(0, 1000)),
    )


@st.composite
def conv_cases(draw: st.DrawFn) -> ConvCase:
    """Draw a convolution: any kernel, stride, padding, dilation and groups that leave an output."""
    pair = st.tuples
    layer = draw(linear_cases(inputs=9))
    kernel, dilation = draw(pair(st.integers(1, 4), st.integers(1, 4))), draw(pair(*[st.integers(1, 3)] * 2))
    padding = draw(pair(*[st.integers(0, 3)] * 4))
    least = [
        max(1, d * (k - 1) + 1 - a - b)
        for k, d, a, b in zip(kernel, dilation, padding[::2], padding[1::2], strict=True)
    ]
    extra = draw(pair(st.integers(0, 20), st.integers(0, 40)))
    stride = draw(pair(*[st.integers(1, 3)] * 2))
    return ConvCase(
        layer=layer,
        groups=draw(st.sampled_from((1, 1, 2, 3))),
        window=Window(kernel, stride, padding, dilation),
        size=(least[0] + extra[0], least[1] + extra[1]),
    )
