"""What is packed comes back bit by bit, whatever its data type, shape and structure."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import secateur as sc
from secateur.artefact.packed import Blocks, coders, range_coding
from secateur.artefact.packed.blocks import matrix_blocks
from secateur.artefact.packed.coders import SMALLEST, Effort
from secateur.artefact.packed.words import KINDS

SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple) | st.sampled_from(
    [(64, 32), (17, 33), (16, 12, 3, 3), (40,), (1, 65, 1), (20, 8, 5)]
)


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
    zero = torch.tensor(-0.0 if draw(st.booleans()) else 0.0)
    return torch.where(state < zeros, zero, matrix).reshape(shape)


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert torch.equal(bits(found), bits(expected))


COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@COMMON
@given(
    tensor=structures(),
    kind=st.sampled_from(["F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2", "I8", "I64", "BOOL", "C64"]),
    smallest=st.booleans(),
)
def test_every_structure_and_type(tmp_path: Path, tensor: Tensor, kind: str, smallest: bool) -> None:
    tensor = (tensor * 10 if kind.startswith("I") else tensor).to(KINDS[kind].dtype)
    packed = sc.pack({"w": tensor}, tmp_path / "x.sec", smallest=smallest)
    assert_same(sc.unpack(packed.path)["w"], tensor)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_pattern_of_bits(kind: str, tmp_path: Path) -> None:
    """NaNs with payloads, infinities, denormals and negative zeros among them."""
    generator = torch.Generator().manual_seed(1)
    size = KINDS[kind].width * KINDS[kind].words
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


@COMMON
@given(
    tensor=structures(),
    bits_=st.sampled_from([4, 8, 16]),
    name=st.sampled_from(["F32", "BF16", "F16", "F64"]),
)
def test_quantised_values_err_as_the_header_says(
    tmp_path: Path, tensor: Tensor, bits_: int, name: str
) -> None:
    tensor = tensor.to(KINDS[name].dtype)
    packed = sc.pack({"w": tensor}, tmp_path / "x.sec", quantise=sc.Quantise(bits_))
    found, entry = sc.unpack(packed.path)["w"], packed.tensors[0]
    if entry.quantised is None:
        assert tensor.ndim < 2 or not tensor.numel() or bits_ >= 8 * tensor.element_size()
        assert_same(found, tensor)
        return
    assert found.dtype == tensor.dtype
    lost = (found.double() - tensor.double()).abs()
    assert float(lost.max()) == entry.quantised.max_error
    norm = float(tensor.double().norm())
    assert float(lost.norm()) == pytest.approx(entry.quantised.relative_error * norm)
    # A code is at most half a step away, save where the largest magnitudes were clipped.
    bound = {4: 0.25, 8: 0.02, 16: 5e-4}[bits_]
    assert entry.quantised.relative_error <= bound
    zeros = tensor == 0
    assert not found[zeros].any()
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


def test_values_that_are_not_finite_stay_exact(tmp_path: Path) -> None:
    mask = torch.full((40, 40), float("-inf")).triu(1)
    packed = sc.pack({"mask": mask}, tmp_path / "x.sec", quantise=sc.Quantise(8))
    assert packed.tensors[0].quantised is None
    assert_same(sc.unpack(packed.path)["mask"], mask)


@COMMON
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    data=st.data(),
)
def test_blocks_are_cut_and_joined(shape: list[int], data: Any) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    cut_at = data.draw(st.integers(1, len(shape)))
    axes = tuple(a for a in (tuple(order[:cut_at]), tuple(order[cut_at:])) if a)
    layout = Blocks(axes, tuple(1 for _ in axes))
    layout = Blocks(axes, tuple(data.draw(st.integers(1, size)) for size in layout.view(shape)))
    words = np.arange(1, 1 + int(np.prod(shape)), dtype=np.uint32).reshape(shape)
    blocks, inside = layout.cut(words), layout.inside(shape)
    assert np.array_equal(layout.join(blocks, shape), words)
    # Brute force: element by element.
    view = words.transpose([d for dims in axes for d in dims]).reshape(layout.view(shape))
    grid = layout.grid(shape)
    for place in np.ndindex(*view.shape):
        block = np.ravel_multi_index([i // n for i, n in zip(place, layout.block)], grid)
        position = np.ravel_multi_index([i % n for i, n in zip(place, layout.block)], layout.block)
        assert blocks[position, block] == view[place]
        assert inside is None or inside[position, block]
    assert inside is None or inside.sum() == words.size


@COMMON
@given(
    count=st.integers(0, 3000),
    share=st.sampled_from([0, 0.001, 0.1, 0.5, 0.99, 1]),
    seed=st.integers(0, 99),
    effort=st.sampled_from([Effort(), SMALLEST]),
)
def test_bits_come_back(count: int, share: float, seed: int, effort: Effort) -> None:
    values = np.random.default_rng(seed).random(count) < share
    coder, stored = coders.encode_bits(values, effort, 4 * count)
    assert np.array_equal(coders.decode_bits(coder, memoryview(stored), count), values)


@pytest.mark.parametrize("gap", [1, 2, 254, 255, 256, 509, 510, 511, 2000])
def test_long_gaps(gap: int) -> None:
    values = np.zeros(9 * gap + 10, bool)
    values[[gap, 2 * gap + 1, 5 * gap + 2]] = True
    stored = coders.compress(coders._gaps(values), 1)
    assert np.array_equal(coders._from_gaps(memoryview(stored), len(values)), values)


def reference_decoder(stored: bytes, frequencies: list[int], count: int) -> list[int]:
    """Decode as docs/format.md says, in Python's integers, to hold the library to it."""
    n, total, cdf = len(frequencies), 0, []
    for i, frequency in enumerate(frequencies):
        cdf.append(total * ((1 << 24) - n) // (1 << 16) + i)
        total += frequency
    cdf.append(1 << 24)
    words = [int.from_bytes(stored[i : i + 4], "little") for i in range(0, len(stored), 4)] + [0] * (
        count + 2
    )
    low, span, at, mask = 0, (1 << 64) - 1, 2, (1 << 64) - 1
    point = words[0] << 32 | words[1]
    out = []
    for _ in range(count):
        step = span >> 24
        quantile = (point - low & mask) // step
        symbol = max(i for i in range(n) if cdf[i] <= quantile)
        out.append(symbol)
        low, span = low + step * cdf[symbol] & mask, step * (cdf[symbol + 1] - cdf[symbol])
        if span < 1 << 32:
            low, span = low << 32 & mask, span << 32
            point, at = point << 32 & mask | words[at], at + 1
    return out


@pytest.mark.parametrize("seed", range(5))
def test_the_range_coder_is_the_one_of_the_format(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = (rng.laplace(size=2000) * rng.integers(1, 60)).astype(np.int8).view(np.uint8)
    stored = range_coding.encode_bytes(data, 1 << 30)
    assert stored is not None
    number = stored[0] + 1
    symbols = stored[1 : 1 + number]
    frequencies = np.frombuffer(stored[1 + number : 1 + 3 * number], "<u2").tolist()
    found = reference_decoder(stored[1 + 3 * number :], frequencies, len(data))
    assert [symbols[i] for i in found] == data.tolist()
    values = rng.random(2000) < 0.03 * (seed + 1)
    stored = range_coding.encode_bits(values, int(values.sum()))
    frequency = int.from_bytes(stored[:2], "little")
    assert (
        reference_decoder(stored[2:], [(1 << 16) - frequency, frequency], 2000) == values.astype(int).tolist()
    )


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((64, 96), matrix_blocks(2, 8, 1)),
        ((64, 96), matrix_blocks(2, 4, 4)),
        ((32, 16, 3, 3), matrix_blocks(4, 4, 1)),
        ((32, 16, 3, 3), Blocks(((0,), (2, 3), (1,)), (1, 1, 4))),
        ((32, 16, 3, 3), Blocks(((0,), (1,), (2, 3)), (1, 1, 9))),
        ((64, 64), matrix_blocks(2, 1, 1)),
        # Larger than the sample, wide and tall.
        ((64, 2048), matrix_blocks(2, 8, 2)),
        ((4096, 24), matrix_blocks(2, 2, 8)),
        ((128, 128, 3, 3), Blocks(((0,), (1,), (2, 3)), (2, 2, 9))),
        ((64, 64, 3, 3), Blocks(((0,), (2, 3), (1,)), (8, 1, 2))),
        ((4096,), matrix_blocks(1, 8, 1)),
    ],
)
def test_structure_is_found(shape: tuple[int, ...], layout: Blocks, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    chosen = np.repeat(rng.random((1, int(np.prod(layout.grid(shape))))) < 0.3, layout.size, axis=0)
    mask = layout.join(chosen, shape)
    weight = torch.from_numpy(mask * rng.normal(size=shape).astype(np.float32))
    found = sc.pack({"w": weight}, tmp_path / "found.sec")
    given_ = sc.pack({"w": weight}, tmp_path / "given.sec", blocks={"w": layout})
    name = "sparse" if layout.size == 1 else "blocks"
    assert name in found.tensors[0].coding
    assert found.bytes <= given_.bytes + 8
    assert_same(sc.unpack(found.path)["w"], weight)
    assert_same(sc.unpack(given_.path)["w"], weight)
