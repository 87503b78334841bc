"""Unified blocks of 16 outputs x 4 inputs, for one sample: signs as 4-bit codes that look up a signed sum."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.ground.errors import KernelError

from . import library as native
from .packing import Activation, blocked_bias, check_weight, row_blocks
from .run import checked, succeed

__all__ = ["LookupMatrix", "PreparedLookup", "pack_lookup", "prepare_lookup", "run_lookup"]

ROWS, EIGHT = 16, 8


@dataclass(frozen=True)
class LookupMatrix:
    """A unified matrix in the layout of the lookup kernel.

    Row block b has the entries ``8 * start[b] ... 8 * start[b + 1]``: which four inputs they read (`group`), under
    which magnitude (0 fills the last eight up). ``code[j, r]`` holds the signs of row r of eight entries, 4 bits each.
    """

    start: Tensor  # (blocks + 1,) int32, in eights
    group: Tensor  # (eights, 8) int32
    code: Tensor  # (eights, 16) int32
    magnitude: Tensor  # (eights, 8) float32
    bias: Tensor  # (blocks, 16) float32
    rows: int
    columns: int

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors by name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: t for name, t in found.items() if isinstance(t, Tensor)}


@dataclass(frozen=True)
class PreparedLookup:
    """The C structure of a matrix, and the matrix, into which it points."""

    lookup: native.Lookup
    pointer: ctypes._Pointer[native.Lookup]
    matrix: LookupMatrix


def pack_lookup(weight: Tensor, bias: Tensor | None = None) -> LookupMatrix:
    """Pack a linear weight (outputs, inputs) whose 16x4 blocks are zero or have one magnitude.

    Raises:
        KernelError: wrong dtype or shape, or a block has several magnitudes.

    >>> pack_lookup(torch.full((16, 8), -0.5)).magnitude[0, :3]
    tensor([0.5000, 0.5000, 0.0000])
    """
    rows, inputs, taps = check_weight(weight, bias, 1)
    if taps != 1 or weight.dim() != 2:
        raise KernelError(f"Lookup is for linear layers; the weight has shape {tuple(weight.shape)}.")
    tall, first, count = row_blocks(weight.detach(), ROWS, 1)
    fours = -(-inputs // 4)
    blocks = F.pad(tall, (0, 4 * fours - inputs)).reshape(len(tall), ROWS, fours, 4).transpose(1, 2)
    # What lies behind the last row or column has no say: it is made as large as the block's first weight.
    real = (torch.arange(ROWS) < count[:, None])[:, None, :, None] & (
        torch.arange(4 * fours).reshape(fours, 1, 4) < inputs
    )
    magnitude = blocks[:, :, 0, 0].abs()  # (blocks, fours)
    wrong = ((blocks.abs() != magnitude[..., None, None]) & real).any(-1).any(-1)
    if bool(wrong.any()):
        block, four = (int(i) for i in wrong.nonzero()[0])
        raise KernelError(
            f"The block of rows {ROWS * block} to {ROWS * block + ROWS - 1}, inputs {4 * four} to {4 * four + 3} has "
            "several magnitudes, so it is not unified. Remedy: pack_unified or pack, which take any weights."
        )
    code = ((blocks < 0) * torch.tensor([1, 2, 4, 8])).sum(-1)  # (blocks, fours, 16)
    used = magnitude != 0
    eights = -(-used.sum(1) // EIGHT)
    start = F.pad(eights.cumsum(0), (1, 0))
    of, group = used.nonzero(as_tuple=True)
    within = torch.arange(len(of)) - F.pad(used.sum(1).cumsum(0), (1, 0))[of]
    place = EIGHT * start[of] + within
    total = EIGHT * int(start[-1])
    codes = torch.zeros(total, ROWS, dtype=torch.int64)
    codes[place] = code[of, group]
    shifted = (codes.reshape(-1, EIGHT, ROWS) << 4 * torch.arange(EIGHT)[:, None]).sum(1)
    return LookupMatrix(
        start=start.int(),
        group=torch.zeros(total, dtype=torch.int32).index_put((place,), group.int()).reshape(-1, EIGHT),
        code=torch.where(shifted >= 1 << 31, shifted - (1 << 32), shifted).int(),
        magnitude=torch.zeros(total).index_put((place,), magnitude[of, group]).reshape(-1, EIGHT),
        bias=blocked_bias(bias, first, count, ROWS),
        rows=rows,
        columns=inputs,
    )


def prepare_lookup(
    matrix: LookupMatrix, activation: Activation = Activation.NONE, add_last: bool = False
) -> PreparedLookup:
    """Check a matrix, whatever file it comes from, and make its C structure.

    Raises:
        KernelError: it is not one that `pack_lookup` makes.
    """
    blocks, eights = -(-matrix.rows // ROWS), len(matrix.code)
    shapes = {
        "start": (blocks + 1,), "group": (eights, EIGHT), "code": (eights, ROWS), "magnitude": (eights, EIGHT),
        "bias": (blocks, ROWS),
    }  # fmt: skip
    found = matrix.tensors()
    sound = (
        all(tuple(t.shape) == shapes[name] and t.is_contiguous() for name, t in found.items())
        and all(t.device.type == "cpu" for t in found.values())
        and all(found[name].dtype == torch.float32 for name in ("magnitude", "bias"))
        and all(found[name].dtype == torch.int32 for name in ("start", "group", "code"))
        and int(matrix.start[0]) == 0
        and int(matrix.start[-1]) == eights
        and bool((matrix.start.diff() >= 0).all())
        and bool((matrix.group >= 0).all())
        and bool((4 * matrix.group.long() < max(matrix.columns, 1)).all())
    )
    if not sound:
        raise KernelError(
            f"A unified matrix of {matrix.rows} x {matrix.columns} is damaged. Remedy: pack it again."
        )
    structure = native.Lookup(
        matrix.rows, matrix.columns, blocks, int(activation), int(add_last),
        *(found[name].data_ptr() for name in ("start", "group", "code", "magnitude", "bias")),
    )  # fmt: skip
    return PreparedLookup(structure, ctypes.pointer(structure), matrix)


def run_lookup(
    library: native.Library, prepared: PreparedLookup, x: Tensor, residual: Tensor | None = None
) -> Tensor:
    """Multiply one sample (..., inputs) float32 to (..., outputs).

    Raises:
        KernelError: wrong dtype, device or shape, or several samples.
    """
    lookup = prepared.lookup
    x = checked(x, "input")
    if x.numel() != lookup.columns or x.dim() == 0 or x.shape[-1] != lookup.columns:
        raise KernelError(
            f"The input has shape {tuple(x.shape)}; lookup takes one sample of {lookup.columns}."
        )
    y = x.new_empty((*x.shape[:-1], lookup.rows))
    residual = None if residual is None else checked(residual, "residual", y.shape)
    succeed(
        library.handle.secateur_lookup(
            prepared.pointer, x.data_ptr(), None if residual is None else residual.data_ptr(), y.data_ptr(),
            torch.get_num_threads(),
        )
    )  # fmt: skip
    return y
