"""Steps in one call: the same bytes as one by one, whatever reads whatever."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.ground.errors import KernelError
from secateur.runtime import Activation
from secateur.runtime.geometry import Window
from secateur.runtime.int8 import (
    Int8Add,
    Int8AveragePool2d,
    Int8Chain,
    Int8Features,
    Int8GlobalAverage,
    Int8MaxPool2d,
    Int8Requantise,
    Int8SparseConv2d,
    Int8SparseLinear,
    Int8Tensor,
    Levels,
)
from secateur.runtime.library import VARIABLE

A, B = Levels(0.04, 128), Levels(0.05, 100)
SAME = Window((3, 3), padding=(1, 1, 1, 1))


def weight(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(len(shape))
    return torch.randint(-127, 128, shape, generator=rng).to(torch.int8), torch.full(shape[:1], 0.002)


def conv(rows: int, residual: bool = False, **options: object) -> Int8SparseConv2d:
    return Int8SparseConv2d.of(
        *weight(rows, 8, 3, 3), SAME, x=A, y=A, residual=A if residual else None, **options
    )


def network() -> tuple[list[nn.Module], list[tuple[int, ...]]]:
    """Return steps of every kind, of which some read what lies further back."""
    layers: list[nn.Module] = [
        conv(8, activation=Activation.HARDSWISH),
        conv(8, residual=True),
        Int8MaxPool2d(Window((3, 3), (1, 1), (1, 1, 1, 1))),
        Int8Requantise(B, Activation.RELU),
        Int8Add(A, Activation.RELU),
        Int8AveragePool2d(Window((2, 2), (2, 2)), A),
        Int8GlobalAverage(A),
        Int8Features(),
        Int8SparseLinear.of(*weight(5, 8), x=A, activation=Activation.GELU),
    ]
    return layers, [(0,), (1, 0), (2,), (3,), (4, 1), (5,), (6,), (7,), (8,)]


def images(count: int, size: int = 9) -> Int8Tensor:
    rng = torch.Generator().manual_seed(count)
    return Int8Tensor.of_images(torch.randn(count, 8, size, size, generator=rng), A)


@torch.inference_mode()
def test_one_call_gives_what_one_by_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Int8Chain(*network())
    for x in (images(2), images(1), images(2, 12), images(0)):
        one_by_one = chain._one_by_one([x])[-1]
        for _ in range(3):  # planned, then run
            assert torch.equal(chain(x), one_by_one)
    assert torch.equal(copy.deepcopy(chain)(images(2)), chain(images(2)))
    found = chain(images(2))
    monkeypatch.setenv(VARIABLE, "none")
    with warnings.catch_warnings(action="ignore"):  # said once, perhaps here
        assert torch.equal(chain(images(2)), found)


@settings(max_examples=30)
@given(data=st.data())
@torch.inference_mode()
def test_any_reads(data: st.DataObject) -> None:
    """Outputs lie where nobody reads any more, and nowhere else."""
    layers: list[nn.Module] = []
    reads: list[tuple[int, ...]] = []
    for number in range(data.draw(st.integers(1, 8))):
        earlier = st.integers(0, number + 1)
        kind = data.draw(st.sampled_from(("sum", "residual", "pool", "conv")))
        first = data.draw(earlier)
        second = data.draw(earlier)
        layers.append({
            "sum": Int8Add(A), "residual": conv(8, residual=True), "conv": conv(8),
            "pool": Int8MaxPool2d(Window((3, 3), (1, 1), (1, 1, 1, 1))),
        }[kind])  # fmt: skip
        reads.append((first, second) if kind in ("sum", "residual") else (first,))
    chain, x = (
        Int8Chain(layers, reads, inputs=2),
        (images(1, 5), images(2, 5).with_words(images(1, 5).words.flip(2))),
    )
    wanted = chain._one_by_one(x)[-1]
    for _ in range(2):
        assert torch.equal(chain(*x).bytes(), wanted.bytes())


@torch.inference_mode()
def test_loaded_weights_are_seen() -> None:
    chain, other = Int8Chain(*network()), Int8Chain(*network())
    x = images(2)
    first = chain(x)
    other.layers[0].values.neg_()
    assert not torch.equal(other(x), first)
    chain.load_state_dict(other.state_dict())
    assert torch.equal(chain(x), other(x))


def test_what_is_no_step_is_refused() -> None:
    with pytest.raises(KernelError, match="ReLU is no step"):
        Int8Chain([nn.ReLU()], [(0,)])
    with pytest.raises(KernelError, match="Step 0 of the chain reads"):
        Int8Chain([Int8Features()], [(1,)])
    with pytest.raises(KernelError, match="ends with a step that computes"):
        Int8Chain([Int8Features()], [(0,)])(images(1))
