"""Load: a packed file into the kernels' layout, block by block; the dense weights are never made."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from os import PathLike

import numpy as np
import torch
from torch import Tensor, nn

from secateur.artefact.manifest import PLAN
from secateur.artefact.packed import PackedFile
from secateur.artefact.packed.coding import Nonzero
from secateur.ground.errors import ArtefactError, did_you_mean

from .modules import SparseConv2d, SparseLinear, window_of
from .packing import COST, HEIGHTS, TAP_BITS, Packed, blocked_bias, starts

__all__ = ["load", "pack_nonzero"]


def load(path: str | PathLike[str], make: Callable[[], nn.Module], *, limit: int | None = None) -> nn.Module:
    """Return a model for inference with the tensors of a packed file (`secateur.pack`), its layers of blocks packed.

    ``make`` is the model's class, or a function that makes one; it is called on torch's meta device, so that no
    dense weights are made. Linear layers and two-dimensional convolutions that the file stores in blocks become
    `SparseLinear` and `SparseConv2d`, where these compute less than the dense layer; all other tensors are filled
    in. ``limit`` is that of `secateur.PackedFile`.

    Raises:
        ArtefactError: the file is damaged, holds an artefact with a plan, or has not the model's tensors.
        KernelError: a layer that the kernels cannot take.
    """
    with torch.device("meta"):
        model = make().eval()
    with PackedFile(path, limit) as file:
        if PLAN in file.texts:
            raise ArtefactError(
                f"{path} is an artefact with a plan of what was removed. Remedy: secateur.load, then runtime.compile."
            )
        tied = {name for r in file.records for names, _ in r.tensors if len(names) > 1 for name in names}
        packed: dict[str, nn.Module] = {}
        for name, layer in model.named_modules():
            weight, bias = (f"{name}.{leaf}".removeprefix(".") for leaf in ("weight", "bias"))
            if type(layer) not in (nn.Linear, nn.Conv2d) or weight not in file or weight in tied:
                continue
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            if (layer.bias is None) == (bias not in file):
                found = _layer(layer, file.nonzero(weight), file.get(bias))
                if found is not None:
                    packed[name] = found
        taken = {f"{name}.{leaf}".removeprefix(".") for name in packed for leaf in ("weight", "bias")}
        state = file.all(without=taken & set(file) - tied)
    if "" in packed:
        return packed[""].eval()
    for name, layer in packed.items():
        model.set_submodule(name, layer)
    _fill(model, {name: t for name, t in state.items() if name not in taken}, path, set(packed))
    return model.eval()


def _fill(model: nn.Module, state: dict[str, Tensor], path: object, packed: set[str]) -> None:
    wanted = {k: t for k, t in model.state_dict().items() if k.rpartition(".")[0] not in packed}
    for name, tensor in wanted.items():
        if name not in state:
            raise ArtefactError(
                f"{path} has no tensor {name!r}, which the model needs.{did_you_mean(name, state)}"
            )
        if state[name].shape != tensor.shape:
            raise ArtefactError(
                f"{path}: {name} has the shape {tuple(state[name].shape)}, the model needs {tuple(tensor.shape)}."
            )
    for name in state:
        if name not in wanted:
            raise ArtefactError(
                f"{path} has a tensor {name!r} that the model lacks.{did_you_mean(name, wanted)}"
            )
    model.load_state_dict(state, strict=False, assign=True)
    for name, buffer in model.named_buffers():
        if buffer.is_meta:
            raise ArtefactError(
                f"{path} has no values of the buffer {name!r}, which is not part of the model's state and was made on "
                "the meta device. Remedy: load_state_dict(secateur.unpack(path)) on a model, then runtime.compile."
            )


def _layer(layer: nn.Linear | nn.Conv2d, nonzero: Nonzero | None, bias: Tensor | None) -> nn.Module | None:
    """Return a layer in the kernels' layout; None where it is better off dense, or does not fit (see `_fill`)."""
    if nonzero is None or nonzero.shape != tuple(layer.weight.shape) or layer.weight.dtype != torch.float32:
        return None
    if bias is not None and bias.shape != (len(layer.weight),):
        return None
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return None
    packed = pack_nonzero(nonzero, bias, groups=getattr(layer, "groups", 1))
    if packed is None or packed.values.numel() * COST[packed.height] >= prod(nonzero.shape):
        return None
    if isinstance(layer, nn.Linear):
        return SparseLinear(packed)
    return SparseConv2d(packed, window_of(layer), layer.groups)


def pack_nonzero(nonzero: Nonzero, bias: Tensor | None = None, *, groups: int = 1) -> Packed | None:
    """Pack what may be nonzero of a weight (outputs, inputs of a group, *taps), as `pack` does all of it.

    Returns None where blocks lie across convolution groups, or have more taps than the kernels know.
    """
    shape, tall = nonzero.shape, nonzero.blocks.rows
    rows, inputs, taps = shape[0], shape[1] if len(shape) > 1 else 0, prod(shape[2:])
    height = tall if tall in HEIGHTS else 1
    if not inputs or taps > 1 << TAP_BITS or rows % groups or (groups > 1 and rows // groups % height):
        return None
    width, there = inputs * taps, nonzero.values != 0
    places = nonzero.places[there]
    within = (places // width % height).astype(np.uint8)
    places = places // (width * height) * width + places % width  # by block, then by column
    # Columns of a block that are zero in all of its rows are dropped.
    used = np.zeros(-(-rows // height) * width, np.bool_)
    used[places] = True
    entries = np.flatnonzero(used)
    values = np.zeros((len(entries), height), np.float32)
    at = np.searchsorted(entries, places)
    at *= height
    at += within
    values.reshape(-1)[at] = nonzero.values[there]
    of, column = np.divmod(entries, width)
    first = torch.arange(0, rows, height, dtype=torch.int32)
    count = (rows - first).clamp(max=height)
    channel = column // taps + of * height // (rows // groups) * inputs
    return Packed(
        first=first,
        count=count,
        start=starts(torch.from_numpy(np.bincount(of, minlength=len(first)))),
        column=torch.from_numpy((channel << TAP_BITS | column % taps).astype(np.int32)),
        values=torch.from_numpy(values),
        bias=blocked_bias(bias, first, count, height),
        rows=rows,
        columns=groups * inputs,
    )
