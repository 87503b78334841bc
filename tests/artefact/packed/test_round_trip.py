"""What is packed comes back bit by bit, whatever its data type, shape and structure; also to a stranger's reader."""

import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from format_reader import raw, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import secateur as sc
from secateur.artefact.packed import Blocks
from secateur.artefact.packed.header import memory
from secateur.artefact.packed.words import KINDS

SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple) | st.sampled_from(
    [(64, 32), (17, 33), (16, 12, 3, 3), (40,), (1, 65, 1), (20, 8, 5)]
)
TYPES = ["F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2", "I8", "I64", "BOOL", "C64"]


@st.composite
def structures(draw: st.DrawFn) -> Tensor:
    """Give float32 values with zero and unified blocks of some size, some of them negative zeros."""
    shape = draw(SHAPES)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    values = torch.randn(shape, generator=generator)
    if not values.numel():
        return values
    matrix = values.reshape(shape[0] if shape else 1, -1)
    rows, columns = draw(st.sampled_from([(1, 1), (8, 1), (1, 4), (4, 4), (3, 2)]))
    grid = (-(-matrix.shape[0] // rows), -(-matrix.shape[1] // columns))

    def spread(blocks: Tensor) -> Tensor:
        wide = blocks.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
        return wide[: matrix.shape[0], : matrix.shape[1]]

    state = spread(torch.rand(grid, generator=generator))
    zeros, unified = draw(st.sampled_from([(0, 0), (0.7, 0), (0.5, 0.4), (0, 1), (1, 0), (0.95, 0.01)]))
    magnitude = spread(torch.rand(grid, generator=generator) + 0.1)
    matrix = torch.where(state < zeros + unified, magnitude.copysign(matrix), matrix)
    zero = torch.tensor(0.0)
    if draw(st.booleans()):  # as a mask leaves them that was multiplied
        zero = zero.copysign(matrix)
    return torch.where(state < zeros, zero, matrix).reshape(shape)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert raw(found) == raw(expected)


COMMON = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


@COMMON
@given(tensor=structures(), kind=st.sampled_from(TYPES))
def test_every_structure_and_type(tmp_path: Path, tensor: Tensor, kind: str) -> None:
    tensor = (tensor * 10 if kind.startswith("I") else tensor).to(KINDS[kind].dtype)
    packed = sc.pack({"w": tensor}, tmp_path / "x.sec")
    found = sc.unpack(packed.path)["w"]
    assert_same(found, tensor)
    assert found.untyped_storage().nbytes() == tensor.nbytes  # memory of its own
    assert read(packed.path.read_bytes())["w"] == raw(tensor)


@COMMON
@given(data=st.data(), tensor=structures(), kind=st.sampled_from(TYPES))
def test_every_kind_of_named_blocks(tmp_path: Path, data: Any, tensor: Tensor, kind: str) -> None:
    shape = KINDS[kind].word_shape(tuple(tensor.shape))
    if not shape or 0 in shape:
        return
    tensor = tensor.to(KINDS[kind].dtype)
    rows = data.draw(st.integers(1, shape[0]))
    columns = data.draw(st.integers(1, math.prod(shape[1:])))
    blocks = Blocks(rows, columns, data.draw(st.booleans()) and len(shape) > 2)
    packed = sc.pack({"w": tensor}, tmp_path / "x.sec", blocks={"w": blocks})
    assert_same(sc.unpack(packed.path)["w"], tensor)
    assert read(packed.path.read_bytes())["w"] == raw(tensor)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"TEXT"}))
def test_every_pattern_of_bits(kind: str, tmp_path: Path) -> None:
    """NaNs with payloads, infinities, denormals and negative zeros among them."""
    generator = torch.Generator().manual_seed(1)
    size = KINDS[kind].dtype.itemsize
    data = torch.randint(0, 256, (61, 40, size), dtype=torch.uint8, generator=generator)
    data[::2] = 0
    data[:, ::4, -1] = 128
    if kind == "BOOL":
        data %= 2
    tensor = data.view(KINDS[kind].dtype).reshape(61, 40)
    sc.pack({"big": tensor, "small": tensor[:3], "one": tensor[0, 0]}, tmp_path / "x.sec")
    found = sc.unpack(tmp_path / "x.sec")
    assert_same(found["big"], tensor)
    assert_same(found["small"], tensor[:3])
    assert_same(found["one"], tensor[0, 0])
    assert read((tmp_path / "x.sec").read_bytes()) == {name: raw(value) for name, value in found.items()}


@COMMON
@given(
    tensor=structures(),
    bits=st.sampled_from([4, 8, 16]),
    kind=st.sampled_from(["F32", "BF16", "F16", "F64"]),
)
def test_quantised_values_err_as_the_header_says(
    tmp_path: Path, tensor: Tensor, bits: int, kind: str
) -> None:
    tensor = tensor.to(KINDS[kind].dtype)
    packed = sc.pack({"w": tensor}, tmp_path / "x.sec", quantise=sc.Quantise(bits))
    found, entry = sc.unpack(packed.path)["w"], packed.tensors[0]
    assert read(packed.path.read_bytes())["w"] == raw(found)
    if entry.bits is None:
        assert tensor.ndim < 2 or not tensor.numel() or bits >= 8 * tensor.element_size()
        assert_same(found, tensor)
        return
    assert entry.relative_error is not None
    assert found.dtype == tensor.dtype
    lost = (found.double() - tensor.double()).abs()
    assert entry.max_error == pytest.approx(float(lost.max()), rel=1e-3)
    norm = float(tensor.double().norm())
    assert float(lost.norm()) == pytest.approx(entry.relative_error * norm, rel=1e-3)
    # A code is at most half a step away, save where the largest magnitudes were clipped.
    assert entry.relative_error <= {4: 0.25, 8: 0.02, 16: 5e-4}[bits]
    assert not found[tensor == 0].any()
    # Again: what was unpacked is packed without further loss.
    again = sc.pack({"w": found}, tmp_path / "y.sec")
    assert_same(sc.unpack(again.path)["w"], found)


def test_quantised_unified_blocks_stay_unified(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = torch.rand(8, 50).repeat_interleave(8, 0) * torch.randn(64, 50).sign()
    packed = sc.pack({"w": weight}, tmp_path / "x.sec", quantise=sc.Quantise(4))
    assert "unified" in packed.tensors[0].coding
    found = sc.unpack(packed.path)["w"].abs().reshape(8, 8, 50)
    assert torch.equal(found, found[:, :1].expand_as(found))
    assert packed.tensors[0].bytes < 64 * 50 / 8 + 8 * 50 / 2 + 100  # a sign each, four bits a block


@pytest.mark.parametrize(
    ("value", "bits"), [(float("-inf"), 8), (float("nan"), 4), (1e30, 16), (float("inf"), 16)]
)
def test_values_that_would_not_be_finite_stay_exact(value: float, bits: int, tmp_path: Path) -> None:
    mask = torch.full((40, 40), value).triu(1)
    packed = sc.pack({"mask": mask}, tmp_path / "x.sec", quantise=sc.Quantise(bits))
    assert packed.tensors[0].bits is None
    assert_same(sc.unpack(packed.path)["mask"], mask)


def test_quantise_knows_its_bits_and_what_stays_exact(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="16, 8 and 4"):
        sc.Quantise(5)
    shared = torch.randn(40, 40)
    tensors = {"a": shared, "head": shared, "b": torch.randn(40, 40), "bias": torch.randn(2000)}
    packed = sc.pack(tensors, tmp_path / "x.sec", quantise=sc.Quantise(8, exclude=("he*",)))
    assert {t.name: t.bits for t in packed.tensors} == {"a": None, "b": 8, "bias": None}


@COMMON
@given(tensor=structures(), kind=st.sampled_from(["F32", "BF16", "I64"]), data=st.data())
def test_reading_takes_no_more_memory_than_the_header_declares(
    tmp_path: Path, tensor: Tensor, kind: str, data: Any
) -> None:
    tensor = tensor.to(KINDS[kind].dtype).repeat(40, *[1] * (tensor.ndim - 1)) if tensor.ndim else tensor
    quantise = data.draw(st.sampled_from([None, sc.Quantise(4), sc.Quantise(16)]))
    sc.pack({"w": tensor}, tmp_path / "x.sec", quantise=quantise)
    with sc.PackedFile(tmp_path / "x.sec") as file:
        tracemalloc.start()
        try:
            kept = file["w"]
            everything = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            file.nonzero("w")
            elements = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert kept.shape == tensor.shape
        assert max(everything, elements) <= memory(file.records) + (1 << 14)  # objects of Python


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((64, 96), Blocks(8)),
        ((64, 96), Blocks(4, 4)),
        ((32, 16, 3, 3), Blocks(4)),
        ((32, 16, 3, 3), Blocks(1, 4, True)),
        ((32, 16, 3, 3), Blocks(1, 9)),
        ((64, 64), Blocks(1)),
        # Larger than the sample, wide and tall.
        ((64, 2048), Blocks(8, 2)),
        ((4096, 24), Blocks(2, 8)),
        ((128, 128, 3, 3), Blocks(2, 18)),
        ((64, 64, 3, 3), Blocks(8, 2, True)),
        ((4096,), Blocks(8)),
        ((8, 40_000), Blocks(1, 8)),
    ],
)
def test_structure_is_found(shape: tuple[int, ...], blocks: Blocks, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    places = blocks.places(rng.random(blocks.grid(shape)) < 0.3, shape)
    matrix = np.zeros(math.prod(shape), np.float32)
    matrix[places] = rng.normal(size=len(places))
    weight = torch.from_numpy(blocks.tensor(matrix, shape).copy())
    found = sc.pack({"w": weight}, tmp_path / "found.sec")
    given_ = sc.pack({"w": weight}, tmp_path / "given.sec", blocks={"w": blocks})
    name = "sparse" if blocks.size == 1 else f"{blocks.rows}x{blocks.columns} blocks"
    assert name in found.tensors[0].coding
    assert found.bytes <= given_.bytes
    assert_same(sc.unpack(found.path)["w"], weight)
    assert_same(sc.unpack(given_.path)["w"], weight)


def test_noise_is_left_dense(tmp_path: Path) -> None:
    torch.manual_seed(0)
    packed = sc.pack({"w": torch.randn(64, 64, 3, 3), "i": torch.arange(9000)}, tmp_path / "x.sec")
    assert [t.coding for t in packed.tensors] == ["dense", "dense"]
    assert packed.tensors[0].bytes < 0.88 * packed.tensors[0].dense_bytes  # exponents are squeezed
    assert packed.tensors[1].bytes < 0.03 * packed.tensors[1].dense_bytes
