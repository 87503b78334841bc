"""Packed layers as modules: copies, files, export, compilation, and machines without kernels."""

from __future__ import annotations

import copy
import io
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.ground.errors import KernelError
from secateur.runtime import INSTRUCTION_SETS, Activation, SparseConv2d, SparseLinear, library, pack
from secateur.runtime import dense as fallback
from secateur.runtime.library import VARIABLE, find_library, kernels


def network() -> tuple[nn.Sequential, nn.Sequential]:
    """Return a dense network with zero blocks, and the same with packed layers."""
    torch.manual_seed(0)
    conv, grouped = (
        nn.Conv2d(8, 16, 3, stride=2, padding="valid"),
        nn.Conv2d(16, 32, 3, padding="same", groups=2),
    )
    linear = nn.Linear(32 * 4 * 4, 10)
    with torch.no_grad():
        conv.weight[:8, ::2] = 0
        grouped.weight[4:12, :, 1] = 0
        linear.weight[:4, 7:100] = 0
    dense = nn.Sequential(conv, nn.ReLU(), grouped, nn.SiLU(), nn.Flatten(), linear).eval()
    packed = nn.Sequential(
        SparseConv2d.of(conv, height=8, activation=Activation.RELU),
        SparseConv2d.of(grouped, height=4, activation=Activation.SILU),
        nn.Flatten(),
        SparseLinear.of(linear),
    )
    return dense, packed


IMAGES = torch.randn(5, 8, 10, 10, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_a_network_of_packed_layers_computes_what_the_dense_one_does() -> None:
    dense, packed = network()
    torch.testing.assert_close(packed(IMAGES), dense(IMAGES), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed(IMAGES[:1]), dense(IMAGES[:1]), rtol=1e-4, atol=1e-5)
    assert packed(IMAGES[:0]).shape == (0, 10)
    channels_last = IMAGES.to(memory_format=torch.channels_last)
    assert torch.equal(packed(channels_last), packed(IMAGES))


@torch.no_grad()
def test_export_compile_and_reload() -> None:
    _, packed = network()
    expected = packed(IMAGES)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(packed, (IMAGES,), dynamic_shapes=({0: batch},))
    assert "secateur.sparse_conv2d" in str(exported.graph)
    assert torch.equal(exported.module()(IMAGES), expected)
    torch.testing.assert_close(
        exported.module()(IMAGES[:3]), expected[:3]
    )  # few rows are summed in another order
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    assert torch.equal(torch.export.load(buffer).module()(IMAGES), expected)
    compiled = torch.compile(packed, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(IMAGES), expected)


@torch.no_grad()
def test_operators_are_what_torch_expects() -> None:
    conv, linear = network()[1][0], network()[1][3]
    packed, window = conv.packed, conv.window
    sizes = (window.kernel, window.stride, window.padding, window.dilation)
    arguments = (IMAGES, *packed.tensors().values(), 16, 8, 0, *sizes, 1, 0)
    torch.library.opcheck(torch.ops.secateur.sparse_conv2d.default, arguments)
    arguments = (torch.randn(3, 512), *linear.packed.tensors().values(), 10, 512, 0, 4)
    torch.library.opcheck(torch.ops.secateur.sparse_linear.default, arguments)


@torch.inference_mode()
def test_copies_and_state(tmp_path: Path) -> None:
    _, packed = network()
    expected = packed(IMAGES)
    assert torch.equal(copy.deepcopy(packed)(IMAGES), expected)
    _, fresh = network()
    for buffer in fresh.buffers():
        if buffer.is_floating_point():
            buffer.zero_()
    fresh(IMAGES)
    fresh.load_state_dict(packed.state_dict())
    assert torch.equal(fresh(IMAGES), expected)
    assert "blocks of 8 x 1" in repr(packed)


@torch.inference_mode()
def test_without_kernels_layers_run_dense_and_say_so(forced: pytest.MonkeyPatch) -> None:
    dense, packed = network()
    forced.setenv(VARIABLE, "none")
    fallback.warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="layers run dense"):
        y = packed(IMAGES)
    torch.testing.assert_close(y, dense(IMAGES), rtol=1e-4, atol=1e-5)
    exported = torch.export.export(packed, (IMAGES,))
    torch.testing.assert_close(exported.module()(IMAGES), y, rtol=1e-4, atol=1e-5)
    unified = SparseLinear.of(nn.Linear(9, 5), unified=True)
    torch.testing.assert_close(
        unified(torch.ones(2, 9)), torch.ones(2, 9) @ unified.dense()[0].T + unified.dense()[1]
    )


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@torch.inference_mode()
def test_forced_instruction_set(forced: pytest.MonkeyPatch, name: str) -> None:
    portable = find_library("portable").library
    assert portable is not None
    forced.setenv(VARIABLE, name)
    if not portable.handle.secateur_supports(INSTRUCTION_SETS.index(name)):
        with pytest.raises(KernelError, match="does not have the instructions"):
            kernels()
        return
    assert kernels().instruction_set == name


def test_what_forces_is_checked(forced: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forced.setenv(VARIABLE, "avx521")
    with pytest.raises(KernelError, match="Did you mean 'avx512'"):
        kernels()
    forced.setenv(VARIABLE, "none")
    with pytest.raises(KernelError, match="switched off"):
        kernels()
    assert "not compiled" in find_library(None, tmp_path).reason
    broken = tmp_path / "broken"
    broken.mkdir()
    for suffix in (".so", ".dylib"):
        (broken / f"kernels-portable{suffix}").write_bytes(b"no library")
    with pytest.raises(KernelError, match="cannot be loaded"):
        find_library("portable", broken)
    left_alone = find_library(None, broken)
    assert left_alone.library is None
    assert "cannot be loaded" in left_alone.reason
    assert left_alone.reason.endswith("Layers run dense.")


def test_kernels_of_another_version_are_refused(forced: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(library.FOLDER, tmp_path / "lib")
    forced.setattr(library, "ABI", library.ABI + 1)
    with pytest.raises(KernelError, match=f"of version {library.ABI - 1}, this secateur needs {library.ABI}"):
        find_library("portable", tmp_path / "lib")


def test_bad_input_is_refused() -> None:
    layer = SparseLinear.of(nn.Linear(8, 4))
    with pytest.raises(KernelError, match="float64 on cpu"), torch.no_grad():
        layer(torch.ones(2, 8, dtype=torch.float64))
    with pytest.raises(KernelError, match="8 inputs was packed"), torch.no_grad():
        layer(torch.ones(2, 9))
    with pytest.raises(KernelError, match="residual has shape"), torch.no_grad():
        layer(torch.ones(2, 8), torch.ones(2, 3))
    with pytest.raises(KernelError, match="no gradient"):
        layer(torch.ones(2, 8, requires_grad=True))
    conv = SparseConv2d.of(nn.Conv2d(2, 4, 5))
    with pytest.raises(KernelError, match="smaller than the kernel"), torch.no_grad():
        conv(torch.ones(1, 2, 3, 3))
    with pytest.raises(KernelError, match="2 input channels"), torch.no_grad():
        conv(torch.ones(1, 3, 9, 9))
    with pytest.raises(KernelError, match="padding_mode"):
        SparseConv2d.of(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(KernelError, match="Blocks of 5 rows"):
        pack(torch.ones(5, 5), height=5)
    with pytest.raises(KernelError, match="bfloat16"):
        pack(torch.ones(5, 5, dtype=torch.bfloat16))


@pytest.mark.parametrize("name", ["first", "count", "start", "column"])
@torch.inference_mode()
def test_damaged_files_are_refused(name: str) -> None:
    layer = SparseLinear.of(nn.Linear(8, 12), height=4)
    state = layer.state_dict()
    state[name] = state[name].clone()
    state[name][-1] += 1 << 12
    layer.load_state_dict(state)
    with pytest.raises(KernelError, match="is damaged"):
        layer(torch.ones(1, 8))


@torch.inference_mode()
def test_nothing_warns_when_all_is_well() -> None:
    _, packed = network()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        packed(IMAGES)
