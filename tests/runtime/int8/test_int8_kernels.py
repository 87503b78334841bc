"""Every int8 kernel against whole numbers, bit for bit, on every instruction set of this machine."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from int8 import Int8Case, Int8ConvCase, blocks_of_four, expected, int8_cases, int8_conv_cases
from torch import Tensor
from torch.nn import functional as F

from secateur.measure.mode import using_threads
from secateur.runtime.geometry import Window
from secateur.runtime.int8 import INT8_HEIGHTS, Levels, pack_int8
from secateur.runtime.int8.dense import dense_int8_conv, dense_int8_linear
from secateur.runtime.int8.levels import channels_of, words_of
from secateur.runtime.int8.packing import free_units
from secateur.runtime.int8.run import prepare_int8, run_int8_conv, run_int8_linear
from secateur.runtime.int8.tables import TABLED, activation_table
from secateur.runtime.library import Library
from secateur.runtime.packing import Activation

EXAMPLES = int(os.environ.get("SECATEUR_EXAMPLES", "150"))
SETTINGS = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def scales_and_bias(rows: int, case: Int8Case, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return scales with which many outputs lie between the ends of their levels, and biases as large as sums."""
    spread = (1.0 if case.y is None else case.y.scale * case.y.most) / case.x.scale
    scales = (torch.rand(rows, generator=rng) + 0.1) * spread / (2e3 * max(case.columns, 4) ** 0.5)
    return scales, torch.randn(rows, generator=rng) * 0.3 * spread * case.x.scale


def unit_of(case: Int8Case, weight: Tensor, scales: Tensor, bias: Tensor) -> Tensor:
    """Return what one of a sum is worth; of rows without weights it is the packing's choice."""
    y = 1.0 if case.y is None else case.y.scale
    if case.y is not None and case.activation in TABLED:
        y = activation_table(case.activation, case.y)[0].scale
    empty = (weight.flatten(1) == 0).all(1)
    return torch.where(empty, free_units(y, bias.double(), case.residual), scales.double() * case.x.scale)


def equal(y: Tensor, wanted: Tensor, images: bool) -> None:
    if wanted.dtype == torch.uint8:
        axis = 1 if images else -1
        y = channels_of(y, images).narrow(axis, 0, wanted.shape[axis])
    assert y.dtype == wanted.dtype
    assert y.shape == wanted.shape
    assert torch.equal(y, wanted), int((y != wanted).sum())


@SETTINGS
@given(case=int8_cases())
def test_linear(library: Library, case: Int8Case) -> None:
    rng = torch.Generator().manual_seed(case.seed)
    weight = blocks_of_four(case.rows, case.columns, 1, case.height, case.zeros, case.extreme, rng)[..., 0]
    scales, bias = scales_and_bias(case.rows, case, rng)
    x = case.bytes((case.samples, case.columns), case.x, rng)
    residual = None
    if case.residual is not None:
        residual = case.bytes((case.samples, case.rows), case.residual, rng)
    packed = pack_int8(
        weight, scales, x=case.x, y=case.y, bias=bias, activation=case.activation, residual=case.residual,
        height=case.height,
    )  # fmt: skip
    words, added = words_of(x, images=False), None if residual is None else words_of(residual, images=False)
    with using_threads(case.threads):
        y = run_int8_linear(library, prepare_int8(packed), words, added)
    products = F.linear(x.double() - case.x.zero, weight.double())
    wanted = expected(case, products, unit_of(case, weight, scales, bias), bias, residual, -1)
    equal(y, wanted, images=False)
    equal(dense_int8_linear(packed, words, added), wanted, images=False)


@SETTINGS
@given(case=int8_conv_cases())
def test_conv(library: Library, case: Int8ConvCase) -> None:
    layer, window, groups = case.layer, case.window, case.groups
    rng = torch.Generator().manual_seed(layer.seed)
    rows, inputs, images = groups * -(-layer.rows // groups), layer.columns, layer.samples % 4
    taps = window.kernel[0] * window.kernel[1]
    weight = blocks_of_four(rows, inputs, taps, layer.height, layer.zeros, layer.extreme, rng)
    weight = weight.reshape(rows, inputs, *window.kernel)
    scales, bias = scales_and_bias(rows, layer, rng)
    x = layer.bytes((images, inputs * groups, *case.size), layer.x, rng)
    residual = None
    if layer.residual is not None:
        residual = layer.bytes((images, rows, *window.out_size(*case.size)), layer.residual, rng)
    packed = pack_int8(
        weight, scales, x=layer.x, y=layer.y, bias=bias, activation=layer.activation, residual=layer.residual,
        groups=groups, height=layer.height,
    )  # fmt: skip
    words, added = words_of(x, images=True), None if residual is None else words_of(residual, images=True)
    with using_threads(layer.threads):
        y = run_int8_conv(library, prepare_int8(packed, taps), window, words, added)
    top, bottom, left, right = window.padding
    laid = F.pad(x.double() - layer.x.zero, (left, right, top, bottom))
    products = F.conv2d(laid, weight.double(), None, window.stride, 0, window.dilation, groups)
    wanted = expected(layer, products, unit_of(layer, weight, scales, bias), bias, residual, 1)
    equal(y, wanted, images=True)
    equal(dense_int8_conv(packed, window, words, added), wanted, images=True)


@pytest.mark.parametrize("most", [127, 255])
@pytest.mark.parametrize("height", INT8_HEIGHTS)
@pytest.mark.parametrize("sign", [-128, 127])
def test_nothing_saturates(library: Library, most: int, height: int, sign: int) -> None:
    """The largest inputs and weights, all of one sign, in as many terms as a layer may have."""
    columns = (1 << 31) // (128 * most) // 4 * 4 - 8
    weight = torch.full((height, columns), sign, dtype=torch.int8)
    packed = pack_int8(weight, torch.ones(height), x=Levels(1.0, 0, most), height=height)
    for samples in (1, 20):
        x = torch.full((samples, columns), most, dtype=torch.uint8)
        y = run_int8_linear(library, prepare_int8(packed), words_of(x, images=False))
        assert torch.equal(y, torch.full((samples, height), float(sign * most * columns)))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("samples", [1, 3, 500])
def test_large_linear(library: Library, samples: int, threads: int) -> None:
    """Sizes at which work is cut into chunks and shared out."""
    rng = torch.Generator().manual_seed(samples)
    weight = blocks_of_four(1100, 2100, 1, 8, 0.5, False, rng)[..., 0]
    x = torch.randint(0, 256, (samples, 2100), generator=rng, dtype=torch.uint8)
    packed = pack_int8(weight, torch.ones(1100), x=Levels(1.0, 100), height=8)
    with using_threads(threads):
        y = run_int8_linear(library, prepare_int8(packed), words_of(x, images=False))
    assert torch.equal(y, ((x.double() - 100) @ weight.double().T).float())


@pytest.mark.parametrize("images", [1, 3])
def test_large_conv(library: Library, images: int) -> None:
    rng = torch.Generator().manual_seed(images)
    weight = blocks_of_four(96, 64, 9, 8, 0.5, False, rng).reshape(96, 64, 3, 3)
    x = torch.randint(0, 256, (images, 64, 30, 30), generator=rng, dtype=torch.uint8)
    x_levels, y_levels = Levels(1.0, 100), Levels(300.0, 50)
    packed = pack_int8(weight, torch.ones(96), x=x_levels, y=y_levels, activation=Activation.RELU)
    with using_threads(2):
        y = run_int8_conv(
            library, prepare_int8(packed, 9), Window((3, 3), padding=(1, 1, 1, 1)), words_of(x, images=True)
        )
    sums = F.conv2d(x.double() - 100, weight.double(), padding=1).float()
    wanted = ((sums * torch.tensor(1 / 300.0)).relu().round() + 50).clamp(0, 255).to(torch.uint8)
    assert torch.equal(channels_of(y, images=True), wanted)
