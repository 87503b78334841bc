"""Load: a packed file into the kernels' layout, block by block; the dense weights are never made."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from os import PathLike

import numpy as np
import torch
from torch import Tensor, nn

from secateur.artefact.manifest import PLAN
from secateur.artefact.packed.read import PackedFile
from secateur.artefact.packed.records import NonzeroBlocks
from secateur.ground.errors import ArtefactError, did_you_mean

from .modules import SparseConv2d, SparseLinear, window_of
from .packing import COST, HEIGHTS, TAP_BITS, Packed, blocked_bias, starts

__all__ = ["load", "pack_blocks"]


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
        if PLAN in file.documents:
            raise ArtefactError(
                f"{path} is an artefact with a plan of what was removed. Remedy: secateur.load, then runtime.compile."
            )
        tied = {*file.header.tied, *file.header.tied.values()}
        packed: dict[str, nn.Module] = {}
        for name, layer in model.named_modules():
            weight, bias = (f"{name}.{leaf}".removeprefix(".") for leaf in ("weight", "bias"))
            if type(layer) not in (nn.Linear, nn.Conv2d) or weight not in file or weight in tied:
                continue
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            if (layer.bias is None) == (bias not in file):
                found = _layer(layer, file.nonzero_blocks(weight), file.get(bias))
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


def _layer(
    layer: nn.Linear | nn.Conv2d, blocks: NonzeroBlocks | None, bias: Tensor | None
) -> nn.Module | None:
    """Return a layer in the kernels' layout; None where it is better off dense."""
    if blocks is None or blocks.shape != tuple(layer.weight.shape) or layer.weight.dtype != torch.float32:
        return None
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return None
    packed = pack_blocks(blocks, bias, groups=getattr(layer, "groups", 1))
    if packed is None or packed.values.numel() * COST[packed.height] >= prod(blocks.shape):
        return None
    if isinstance(layer, nn.Linear):
        return SparseLinear(packed)
    return SparseConv2d(packed, window_of(layer), layer.groups)


def pack_blocks(blocks: NonzeroBlocks, bias: Tensor | None = None, *, groups: int = 1) -> Packed | None:
    """Pack the blocks of a weight (outputs, inputs of a group, *taps), as `pack` does its dense form.

    Returns None where blocks lie across convolution groups, or have more taps than the kernels know.
    """
    layout, shape = blocks.layout, blocks.shape
    rows, inputs, taps = shape[0], shape[1] if len(shape) > 1 else 0, prod(shape[2:])
    tall = layout.block[0]
    height = tall if tall in HEIGHTS else 1
    if not inputs or taps > 1 << TAP_BITS or rows % groups or (groups > 1 and rows // groups % height):
        return None
    grid, across = layout.grid(shape), layout.size // tall
    above, *behind = np.unravel_index(blocks.number, grid)
    at = np.unravel_index(np.arange(across), layout.block[1:])
    # The place of each of a block's columns: along every axis of the view, then along the weight's dimensions.
    column = np.zeros((across, len(blocks.number)), np.int64)
    inside = np.ones(column.shape, np.bool_)
    for axis, dims in enumerate(layout.axes[1:]):
        size = layout.view(shape)[axis + 1]
        along = behind[axis] * layout.block[axis + 1] + at[axis][:, None]
        inside = inside & (along < size)
        for dim, index in zip(dims, np.unravel_index(np.minimum(along, size - 1), [shape[d] for d in dims])):
            column += index * prod(shape[dim + 1 :])
    pieces = tall // height
    values = blocks.values.reshape(tall, across, -1)
    if rows % tall:  # what a unified block has beyond the edge is not zero
        values = np.where((above * tall + np.arange(tall)[:, None] < rows)[:, None], values, np.float32(0))
    cut = values.reshape(pieces, height, across, -1)
    block = above * pieces + np.arange(pieces)[:, None]  # (pieces, blocks)
    used = (cut != 0).any(1) & inside & (block * height < rows)[:, None]  # (pieces, across, blocks)
    piece, place, number = used.nonzero()
    of, column = block[piece, number], column[place, number]
    order = np.argsort(of * (inputs * taps) + column)
    piece, place, number, of, column = (a[order] for a in (piece, place, number, of, column))
    first = torch.arange(0, rows, height, dtype=torch.int32)
    count = (rows - first).clamp(max=height)
    channel = column // taps + of * height // (rows // groups) * inputs
    return Packed(
        first=first,
        count=count,
        start=starts(torch.from_numpy(np.bincount(of, minlength=len(first)))),
        column=torch.from_numpy((channel << TAP_BITS | column % taps).astype(np.int32)),
        values=torch.from_numpy(np.ascontiguousarray(cut[piece, :, place, number])),
        bias=blocked_bias(bias, first, count, height),
        rows=rows,
        columns=groups * inputs,
    )
