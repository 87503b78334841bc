"""Random int8 layers, and what they compute, from the definition of their levels and in whole numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from secateur.runtime import Activation
from secateur.runtime.geometry import Window
from secateur.runtime.int8 import INT8_HEIGHTS, Levels
from secateur.runtime.int8.tables import TABLED, activation_table

__all__ = [
    "Int8Case",
    "Int8ConvCase",
    "blocks_of_four",
    "expected",
    "int8_cases",
    "int8_conv_cases",
    "levels",
]


def blocks_of_four(
    rows: int, columns: int, taps: int, height: int, zeros: float, extreme: bool, rng: torch.Generator
) -> Tensor:
    """Return int8 (rows, columns, taps) of which a share of the blocks of height x 4 is zero; extreme: -128 and 127."""
    grid = torch.rand(-(-rows // height), -(-columns // 4), taps, generator=rng) >= zeros
    keep = grid.repeat_interleave(height, 0)[:rows].repeat_interleave(4, 1)[:, :columns]
    values = torch.randint(-128, 128, (rows, columns, taps), generator=rng)
    if extreme:
        values = torch.where(values.sum((1, 2), keepdim=True) % 2 == 0, -128, 127)
    return (values * keep).to(torch.int8)


@dataclass(frozen=True)
class Int8Case:
    """A linear layer and a batch, by its numbers; tensors follow from the seed."""

    rows: int
    columns: int
    samples: int
    height: int
    zeros: float
    extreme: bool
    x: Levels
    y: Levels | None
    residual: Levels | None
    activation: Activation
    threads: int
    seed: int

    def bytes(self, shape: tuple[int, ...], of: Levels, rng: torch.Generator) -> Tensor:
        """Return random levels, or nothing but the largest ones."""
        if self.extreme:
            return torch.full(shape, of.most, dtype=torch.uint8)
        return torch.randint(0, of.most + 1, shape, generator=rng, dtype=torch.uint8)


@dataclass(frozen=True)
class Int8ConvCase:
    """A convolution and images, by its numbers."""

    layer: Int8Case
    groups: int
    window: Window
    size: tuple[int, int]


@st.composite
def levels(draw: st.DrawFn) -> Levels:
    """Draw levels: 7 or 8 bits, any zero point with its ends."""
    most = draw(st.sampled_from((127, 255)))
    zero = draw(st.one_of(st.sampled_from((0, most)), st.integers(0, most)))
    return Levels(draw(st.floats(1e-3, 2.0)), zero, most)


@st.composite
def int8_cases(draw: st.DrawFn, inputs: int = 90) -> Int8Case:
    """Draw a linear layer."""
    return Int8Case(
        rows=draw(st.integers(1, 70)),
        columns=draw(st.integers(1, inputs)),
        samples=draw(st.one_of(st.integers(0, 9), st.integers(10, 130))),
        height=draw(st.sampled_from(INT8_HEIGHTS)),
        zeros=draw(st.sampled_from((0.0, 0.5, 0.9, 1.0))),
        extreme=draw(st.booleans()),
        x=draw(levels()),
        y=draw(st.one_of(st.none(), levels())),
        residual=draw(st.one_of(st.none(), levels())),
        activation=draw(st.sampled_from(Activation)),
        threads=draw(st.sampled_from((1, 2))),
        seed=draw(st.integers(0, 1000)),
    )


@st.composite
def int8_conv_cases(draw: st.DrawFn) -> Int8ConvCase:
    """Draw a convolution: any kernel, stride, padding, dilation and groups that leave an output."""
    pair = st.tuples
    layer = draw(int8_cases(inputs=13))
    kernel = draw(st.one_of(pair(*[st.integers(1, 4)] * 2), st.sampled_from(((5, 5), (7, 7), (1, 7)))))
    dilation = draw(pair(*[st.sampled_from((1, 1, 2, 3))] * 2))
    padding = draw(pair(*[st.integers(0, 3)] * 4))
    least = [
        max(1, d * (k - 1) + 1 - a - b)
        for k, d, a, b in zip(kernel, dilation, padding[::2], padding[1::2], strict=True)
    ]
    extra = draw(pair(st.integers(0, 20), st.integers(0, 40)))
    return Int8ConvCase(
        layer=layer,
        groups=draw(st.sampled_from((1, 1, 2, 3, 8))),
        window=Window(kernel, draw(pair(*[st.integers(1, 3)] * 2)), padding, dilation),
        size=(least[0] + extra[0], least[1] + extra[1]),
    )


def expected(
    case: Int8Case, products: Tensor, unit: Tensor, bias: Tensor, residual: Tensor | None, axis: int
) -> Tensor:
    """Return levels, or float32, of sums of products of (level - zero) and weight, which are whole numbers (float64).

    `unit` is what one of a row's sum is worth, (outputs,) float64; `axis` that of the outputs.
    """
    shape = [-1 if i == axis % products.dim() else 1 for i in range(products.dim())]
    sums = products + (bias.double() / unit).round().reshape(shape)
    if residual is not None and case.residual is not None:
        ratio = (case.residual.scale / unit).float().reshape(shape)
        sums = sums + ((residual.int() - case.residual.zero).float() * ratio).round()
    y, table = case.y, None
    if y is not None and case.activation in TABLED:
        y, table = activation_table(case.activation, y)
    reals = sums.float() * (unit / (1.0 if y is None else y.scale)).float().reshape(shape)
    clamps = table is None
    if clamps and case.activation in (Activation.RELU, Activation.RELU6):
        reals = F.relu(reals)
    if y is None:
        return reals.clamp(max=6.0) if case.activation is Activation.RELU6 else reals
    found = reals.round() + y.zero
    if clamps and case.activation is Activation.RELU6:
        found = found.clamp(max=y.zero + round(6.0 / y.scale))
    found = found.clamp(0, y.most).to(torch.uint8)
    return found if table is None else table[found.long()]
