"""Every kernel against float64, on every instruction set of this machine."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sparse import ConvCase, LinearCase, blocked, conv_cases, finished, linear_cases, unified
from torch import Tensor
from torch.nn import functional as F

from secateur.measure.mode import using_threads
from secateur.runtime import Activation, pack, pack_unified
from secateur.runtime.geometry import Window
from secateur.runtime.library import Library
from secateur.runtime.pool import run_max_pool
from secateur.runtime.run import prepare, run_conv, run_linear

SERIAL_WORK = 1 << 20  # multiply-accumulates from which the kernels share work out (native/matrix.h)
EXAMPLES = int(os.environ.get("SECATEUR_EXAMPLES", "150"))
SETTINGS = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def close(found: Tensor, expected: Tensor, scale: Tensor) -> None:
    """See that an error is that of float32 sums whose terms have the sum of magnitudes `scale`."""
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    if found.numel():
        error = (found - expected).abs()
        assert bool((error <= 1e-6 * scale + 1e-6).all()), float((error / (scale + 1)).max())


@SETTINGS
@given(case=linear_cases())
def test_linear(library: Library, case: LinearCase) -> None:
    rng = torch.Generator().manual_seed(case.seed)
    x, bias = torch.randn(case.samples, case.columns, generator=rng), torch.randn(case.rows, generator=rng)
    residual = torch.randn(case.samples, case.rows, generator=rng) if case.residual else None
    if case.unified:
        weight = unified(case.rows, case.columns, 1, case.zeros, 0.2 * (case.seed % 2), rng)
        packed = pack_unified(weight, bias)
    else:
        weight = blocked(case.rows, case.columns, case.height, case.zeros, rng)
        packed = pack(weight, bias, height=case.height)
    with using_threads(case.threads):
        y = run_linear(library, prepare(packed, 1, case.activation, case.add_last), x, residual)
    expected = F.linear(x.double(), weight.double(), bias.double())
    scale = F.linear(x.abs(), weight.abs(), bias.abs()) + (0 if residual is None else residual.abs())
    close(y, finished(expected, residual, case), scale)


@SETTINGS
@given(case=conv_cases())
def test_conv(library: Library, case: ConvCase) -> None:
    layer, window, groups = case.layer, case.window, case.groups
    rng = torch.Generator().manual_seed(layer.seed)
    rows, inputs, images = -(-layer.rows // groups), layer.columns, layer.samples % 4
    if layer.unified and groups > 1:
        inputs = -(-inputs // 4) * 4
    x = torch.randn(images, inputs * groups, *case.size, generator=rng)
    bias = torch.randn(rows * groups, generator=rng)
    taps = window.kernel[0] * window.kernel[1]

    def matrix(zeros: float) -> Tensor:
        if layer.unified:  # blocks along the channels, for each tap
            flat = unified(rows * groups * taps, inputs, 1, zeros, 0.2 * (layer.seed % 2), rng)
            return flat.reshape(rows * groups, taps, inputs).transpose(1, 2)
        parts = [blocked(rows, inputs * taps, layer.height, zeros, rng) for _ in range(groups)]
        return torch.cat(parts)

    weight = matrix(layer.zeros).reshape(rows * groups, inputs, *window.kernel)
    packed = (
        pack_unified(weight, bias, groups=groups)
        if layer.unified
        else pack(weight, bias, height=layer.height, groups=groups)
    )
    top, bottom, left, right = window.padding

    def conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, weight, bias, window.stride, 0, window.dilation, groups)

    expected, scale = (
        conv(x.double(), weight.double(), bias.double()),
        conv(x.abs(), weight.abs(), bias.abs()),
    )
    residual = torch.randn(expected.shape, generator=rng) if layer.residual else None
    with using_threads(layer.threads):
        y = run_conv(library, prepare(packed, taps, layer.activation, layer.add_last), window, x, residual)
    close(y, finished(expected, residual, layer), scale + (0 if residual is None else residual.abs()))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("samples", [1, 3, 200])
def test_large_linear(library: Library, samples: int, threads: int) -> None:
    """Sizes at which work is cut into chunks and shared out, rows of blocks unevenly full."""
    rng = torch.Generator().manual_seed(samples)
    weight, x = blocked(1100, 2100, 8, 0.4, rng), torch.randn(samples, 2100, generator=rng)
    weight[400:] *= blocked(700, 2100, 4, 0.3, rng) != 0
    packed = pack(weight, height=8)
    assert packed.values.numel() * samples >= SERIAL_WORK
    with using_threads(threads):
        y = run_linear(library, prepare(packed), x)
    close(y, x.double() @ weight.double().T, x.abs() @ weight.abs().T)


@pytest.mark.parametrize("images", [1, 3])
def test_large_conv(library: Library, images: int) -> None:
    rng = torch.Generator().manual_seed(images)
    weight = blocked(96, 64 * 9, 8, 0.5, rng).reshape(96, 64, 3, 3)
    x = torch.randn(images, 64, 30, 30, generator=rng)
    window = Window((3, 3), padding=(1, 1, 1, 1))
    with using_threads(2):
        y = run_conv(library, prepare(pack(weight, height=8), 9), window, x)
    expected = F.conv2d(x.double(), weight.double(), padding=1)
    close(y, expected, F.conv2d(x.abs(), weight.abs(), padding=1))


@SETTINGS
@given(data=st.data())
def test_max_pool(library: Library, data: st.DataObject) -> None:
    pair = st.tuples
    kernel = data.draw(pair(*[st.integers(1, 4)] * 2))
    pad = data.draw(pair(*[st.integers(0, k // 2) for k in kernel]))
    stride = data.draw(pair(*[st.integers(1, 3)] * 2))
    size = data.draw(pair(*[st.integers(k, k + 40) for k in kernel]))
    x = torch.randn(data.draw(st.integers(0, 3)), data.draw(st.integers(1, 5)), *size)
    x[torch.rand(x.shape) < 0.02] = data.draw(st.sampled_from((torch.nan, -torch.inf, torch.inf)))
    window = Window(kernel, stride, (pad[0], pad[0], pad[1], pad[1]))
    with using_threads(data.draw(st.sampled_from((1, 2)))):
        y = run_max_pool(library, window, x)
    torch.testing.assert_close(y, F.max_pool2d(x, kernel, stride, pad), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("threads", [1, 2])
def test_large_max_pool(library: Library, threads: int) -> None:
    x = torch.randn(4, 64, 56, 57, generator=torch.Generator().manual_seed(0))
    assert x.numel() // 4 * 9 >= SERIAL_WORK
    with using_threads(threads):
        y = run_max_pool(library, Window((3, 3), (2, 2), (1, 1, 1, 1)), x)
    assert torch.equal(y, F.max_pool2d(x, 3, 2, 1))


def test_not_a_number_stays(library: Library) -> None:
    x = torch.ones(2, 4)
    x[0, 1] = torch.nan
    for activation in range(7):
        prepared = prepare(pack(torch.ones(4, 4), height=4), 1, Activation(activation))
        y = run_linear(library, prepared, x)
        assert y[0].isnan().all()
        assert not y[1].isnan().any()
