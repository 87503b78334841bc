"""Quantising, other levels, sums, concatenation and pooling: every instruction set against torch in whole numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from int8 import levels
from torch import Tensor
from torch.nn import functional as F

from secateur.ground.errors import KernelError
from secateur.measure.mode import using_threads
from secateur.runtime import Activation
from secateur.runtime.geometry import Window
from secateur.runtime.int8 import (
    Int8AveragePool2d,
    Int8MaxPool2d,
    Int8Tensor,
    Levels,
    added,
    concatenated,
    global_average,
    requantised,
)
from secateur.runtime.int8 import pointwise as kernels
from secateur.runtime.int8 import pool as pools
from secateur.runtime.int8.levels import words_of
from secateur.runtime.library import Library

SETTINGS = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
SHAPES = st.one_of(
    st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(0, 5), st.integers(1, 80)),
)
SPECIAL = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e38, -1e38, 1e-42, -0.0])


@pytest.fixture
def used(library: Library, monkeypatch: pytest.MonkeyPatch) -> Library:
    """Let all functions use one library."""
    for module in (kernels, pools):
        monkeypatch.setattr(module, "kernels_for", lambda *tensors: library)
    return library


def without_kernels(call, *args):
    """Return what torch's own steps give."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (kernels, pools):
            patch.setattr(module, "kernels_for", lambda *tensors: None)
        return call(*args)


def random(shape: tuple[int, ...], of: Levels, rng: torch.Generator) -> Int8Tensor:
    """Return random levels as images or features."""
    drawn = torch.randint(0, of.most + 1, shape, generator=rng, dtype=torch.uint8)
    return Int8Tensor(words_of(drawn, len(shape) == 4), shape[1], of, len(shape) == 4)


def nearest(reals: Tensor, y: Levels) -> Tensor:
    return ((reals / y.scale).round() + y.zero).clamp(0, y.most).to(torch.uint8)


@SETTINGS
@given(shape=SHAPES, of=levels(), seed=st.integers(0, 99), threads=st.sampled_from((1, 2)))
def test_levels_of_reals_and_back(
    used: Library, shape: tuple[int, ...], of: Levels, seed: int, threads: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=rng) * of.scale * 100
    odd = torch.rand(shape, generator=rng) < 0.1
    x[odd] = SPECIAL[torch.randint(0, len(SPECIAL), shape, generator=rng)][odd]
    make = Int8Tensor.of_images if len(shape) == 4 else Int8Tensor.of_features
    with using_threads(threads):
        found = make(x, of)
        reals = found.reals()
    assert found.shape == shape
    assert torch.equal(found.bytes(), of.of(x))
    assert torch.equal(reals, of.real(of.of(x)))
    inside = x.isfinite() & (x > of.reals[0]) & (x < of.reals[1])
    assert bool(((reals - x).abs()[inside] <= 0.5001 * of.scale).all())


def test_what_is_beyond_the_ends_is_at_the_ends(used: Library) -> None:
    of = Levels(0.5, 3, 127)
    found = Int8Tensor.of_features(torch.tensor([[torch.inf, -torch.inf, torch.nan, 1e30]]), of)
    assert found.bytes().tolist() == [[127, 0, 3, 127]]
    assert found.reals().tolist() == [[62.0, -1.5, 0.0, 62.0]]


@SETTINGS
@given(shape=SHAPES, x=levels(), y=levels(), activation=st.sampled_from(Activation), seed=st.integers(0, 99))
def test_other_levels(
    used: Library, shape: tuple[int, ...], x: Levels, y: Levels, activation: Activation, seed: int
) -> None:
    given_ = random(shape, x, torch.Generator().manual_seed(seed))
    found = requantised(given_, y, activation)
    assert torch.equal(found.bytes(), without_kernels(requantised, given_, y, activation).bytes())
    if activation is Activation.RELU:
        wanted = nearest(((given_.bytes().double() - x.zero) * x.scale).relu(), y)
        assert torch.equal(found.bytes(), wanted)


@SETTINGS
@given(shape=SHAPES, parts=st.tuples(levels(), levels(), levels()), activation=st.sampled_from(list(Activation)[:3]),
       seed=st.integers(0, 99))  # fmt: skip
def test_sums(
    used: Library,
    shape: tuple[int, ...],
    parts: tuple[Levels, Levels, Levels],
    activation: Activation,
    seed: int,
) -> None:
    rng, (a, b, y) = torch.Generator().manual_seed(seed), parts
    x, z = random(shape, a, rng), random(shape, b, rng)
    found = added(x, z, y, activation)
    assert torch.equal(found.bytes(), without_kernels(added, x, z, y, activation).bytes())
    reals = (x.bytes().double() - a.zero) * a.scale + (z.bytes().double() - b.zero) * b.scale
    limits = {Activation.RELU: (0.0, math.inf), Activation.RELU6: (0.0, 6.0)}.get(
        activation, (-math.inf, math.inf)
    )
    wanted = nearest(reals.clamp(*limits), y)
    assert bool(((found.bytes().int() - wanted.int()).abs() <= 1).all())
    ratio = (a.scale + b.scale) / y.scale
    if ratio < 16:  # many bits behind the point: only what lies at a half may go the other way
        apart = (reals / y.scale).frac().abs().sub(0.5).abs() > 1e-3
        assert torch.equal(found.bytes()[apart], wanted[apart])


def test_sums_too_fine_are_refused() -> None:
    x = Int8Tensor.of_features(torch.zeros(1, 4), Levels(1e9, 0))
    with pytest.raises(KernelError, match="larger scale"):
        added(x, x, Levels(1e-3, 0))
    with pytest.raises(KernelError, match="requantised"):
        added(x, x, Levels(1e9, 0), Activation.GELU)


@SETTINGS
@given(channels=st.lists(st.integers(1, 9), min_size=1, max_size=4), images=st.booleans(), y=levels(),
       seed=st.integers(0, 99))  # fmt: skip
def test_concatenation(used: Library, channels: list[int], images: bool, y: Levels, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    parts = [
        random((2, c, 3, 5) if images else (2, c), Levels(0.1 * (i + 1), 10 * i), rng)
        for i, c in enumerate(channels)
    ]
    found = concatenated(parts, y)
    assert torch.equal(found.bytes(), torch.cat([requantised(p, y).bytes() for p in parts], 1))
    assert found.shape[1] == sum(channels)


@SETTINGS
@given(data=st.data(), of=levels(), y=levels())
def test_pools(used: Library, data: st.DataObject, of: Levels, y: Levels) -> None:
    pair = st.tuples
    kernel = data.draw(pair(*[st.integers(1, 4)] * 2))
    pad = data.draw(pair(*[st.integers(0, k // 2) for k in kernel]))
    stride = data.draw(pair(*[st.integers(1, 3)] * 2))
    size = data.draw(pair(*[st.integers(k, k + 25) for k in kernel]))
    shape = (data.draw(st.integers(0, 2)), data.draw(st.integers(1, 9)), *size)
    x = random(shape, of, torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    window = Window(kernel, stride, (pad[0], pad[0], pad[1], pad[1]))
    with using_threads(data.draw(st.sampled_from((1, 2)))):
        largest = Int8MaxPool2d(window)(x)
        count = data.draw(st.booleans())
        means = Int8AveragePool2d(window, y, count)(x)
    wanted = F.max_pool2d(x.bytes().float(), kernel, stride, pad).to(torch.uint8)
    assert torch.equal(largest.bytes(), wanted)
    assert torch.equal(largest.bytes(), without_kernels(Int8MaxPool2d(window), x).bytes())
    assert torch.equal(means.bytes(), without_kernels(Int8AveragePool2d(window, y, count), x).bytes())
    exact = F.avg_pool2d(
        (x.bytes().double() - of.zero) * of.scale, kernel, stride, pad, count_include_pad=count
    )
    assert bool((exact.clamp(*y.reals) - means.reals()).abs().le(0.501 * y.scale).all())


def test_global_average(used: Library) -> None:
    x = random((2, 6, 7, 7), Levels(0.02, 0), torch.Generator().manual_seed(0))
    means = global_average(x, Levels(0.02, 0)).features()
    assert means.shape == (2, 6)
    assert bool((means.reals() - x.reals().mean((2, 3))).abs().le(0.0101).all())


def test_features_of_images_go_with_the_flat_weight(used: Library) -> None:
    from secateur.runtime.int8 import Int8SparseLinear, flat_weight

    rng = torch.Generator().manual_seed(0)
    x = random((3, 6, 2, 5), Levels(0.02, 7), rng)
    weight = torch.randint(-127, 128, (5, 60), generator=rng, dtype=torch.int8)
    layer = Int8SparseLinear.of(flat_weight(weight, 6, 2, 5), torch.ones(5), x=x.levels)
    wanted = (x.bytes().double() - 7).flatten(1) @ weight.double().T
    torch.testing.assert_close(layer(x.features()), (wanted * 0.02).float())
