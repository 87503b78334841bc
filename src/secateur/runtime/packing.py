"""Packing: a weight with zero blocks into the kernels' layout, a list of columns for each block of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntEnum

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.ground.errors import KernelError

__all__ = ["COST", "HEIGHTS", "Activation", "Packed", "best_height", "check_packed", "pack", "unpack"]

HEIGHTS = (1, 4, 8, 16)
"""Rows of a block that the kernels know."""

TAP_BITS = 8  # of a column's number; the channel is in front of them (native/matrix.h)
COST = {1: 2.4, 4: 1.06, 8: 1.0, 16: 1.0}
"""What a multiply-accumulate costs by height, against that of 8: estimates, which only choose among heights."""


class Activation(IntEnum):
    """What a kernel applies to its sums; the numbers are those of native/epilogue.h."""

    NONE = 0
    RELU = 1
    RELU6 = 2
    SILU = 3
    GELU = 4
    GELU_TANH = 5
    HARDSWISH = 6


@dataclass(frozen=True)
class Packed:
    """A matrix in the kernels' layout: row blocks of `height` rows, each with the columns where it is not zero.

    Block b has the rows ``first[b] ... first[b] + count[b]`` and the entries ``start[b] ... start[b + 1]``. Entry e
    reads the input plane ``column[e] >> 8`` at tap ``column[e] & 255`` and has `height` values.
    """

    first: Tensor  # (blocks,) int32
    count: Tensor  # (blocks,) int32
    start: Tensor  # (blocks + 1,) int32
    column: Tensor  # (entries,) int32
    values: Tensor  # (entries, height) float32
    bias: Tensor  # (blocks, height) float32
    rows: int
    columns: int  # input features, or channels of all convolution groups
    planes: int = 0  # that four inputs make, of a unified matrix: 8 or 12 (see `pack_unified`)

    @property
    def height(self) -> int:
        """Rows of a block."""
        return self.values.shape[1]

    @property
    def entries(self) -> int:
        """Stored columns, over all blocks."""
        return self.column.numel()

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors by name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: t for name, t in found.items() if isinstance(t, Tensor)}


def pack(weight: Tensor, bias: Tensor | None = None, *, height: int | None = None, groups: int = 1) -> Packed:
    """Pack a weight (outputs, inputs of a group, *taps) and a bias (outputs,), both float32; zeros are found.

    Columns of a block that are zero in all of its rows are dropped. The last block of a convolution group may have
    fewer rows. `height` None takes the cheapest.

    Raises:
        KernelError: wrong dtype, shape or height, or more than 256 taps.

    >>> weight = torch.eye(8)
    >>> weight[:4, 7] = 1
    >>> packed = pack(weight, height=4)
    >>> packed.entries, packed.column[:5] >> 8
    (9, tensor([0, 1, 2, 3, 7], dtype=torch.int32))
    """
    rows, inputs, taps = check_weight(weight, bias, groups)
    if height is None:
        height = best_height(weight, groups)
    if height not in HEIGHTS:
        raise KernelError(f"Blocks of {height} rows are not known to the kernels. Remedy: one of {HEIGHTS}.")
    blocks, first, count = row_blocks(weight.detach().reshape(rows, inputs * taps), height, groups)
    used = (blocks != 0).any(1)  # (blocks, inputs * taps)
    of, local = used.nonzero(as_tuple=True)
    group = torch.arange(groups).repeat_interleave(len(blocks) // groups)[of]
    channel = group * inputs + local // taps
    return Packed(
        first=first,
        count=count,
        start=starts(used.sum(1)),
        column=(channel << TAP_BITS | local % taps).int(),
        values=blocks.transpose(1, 2)[used].contiguous(),
        bias=blocked_bias(bias, first, count, height),
        rows=rows,
        columns=groups * inputs,
    )


def unpack(packed: Packed, taps: tuple[int, ...] = (), groups: int = 1) -> Tensor:
    """Return the dense weight (outputs, inputs of a group, *taps) of a matrix that is not unified.

    >>> torch.equal(unpack(pack(torch.eye(6), height=4)), torch.eye(6))
    True
    """
    inputs, each = packed.columns // groups, 1
    for n in taps:
        each *= n
    of = torch.repeat_interleave(torch.arange(len(packed.first)), packed.start.diff().long())
    group = of // max(len(packed.first) // groups, 1)
    local = ((packed.column.long() >> TAP_BITS) - group * inputs) * each + (
        packed.column & (1 << TAP_BITS) - 1
    )
    weight = packed.values.new_zeros(packed.rows, inputs * each)
    for r in range(packed.height):
        real = r < packed.count[of]
        weight[packed.first[of[real]].long() + r, local[real]] = packed.values[real, r]
    return weight.reshape(packed.rows, inputs, *taps)


def best_height(weight: Tensor, groups: int = 1) -> int:
    """Return the block height with which a weight costs least: entries by rows by the cost of one product."""
    matrix = weight.detach().flatten(1)

    def cost(height: int) -> float:
        blocks, *_ = row_blocks(matrix, height, groups)
        return float((blocks != 0).any(1).sum()) * height * COST[height]

    return min(reversed(HEIGHTS), key=cost)


def check_weight(weight: Tensor, bias: Tensor | None, groups: int) -> tuple[int, int, int]:
    """Return outputs, inputs of a group and taps of a weight that the kernels can take.

    Raises:
        KernelError: they cannot.
    """
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and (tensor.dtype != torch.float32 or tensor.device.type != "cpu"):
            raise KernelError(
                f"The {name} is {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}; the kernels take "
                f"float32 on the CPU. Remedy: {name}.float().cpu()."
            )
    if weight.dim() < 2 or 0 in weight.shape:
        raise KernelError(
            f"A weight (outputs, inputs, ...) has two or more dimensions, not {tuple(weight.shape)}."
        )
    rows, inputs = weight.shape[:2]
    taps = weight[0, 0].numel()
    if rows % groups:
        raise KernelError(f"{rows} outputs are not divisible by {groups} groups.")
    if taps > 1 << TAP_BITS:
        raise KernelError(f"A kernel of {taps} taps is too large; the kernels take up to {1 << TAP_BITS}.")
    if inputs * groups >= 1 << 20:
        raise KernelError(f"{inputs * groups} inputs are too many; the kernels take fewer than {1 << 20}.")
    if bias is not None and bias.shape != (rows,):
        raise KernelError(f"The bias has shape {tuple(bias.shape)}, the weight {rows} outputs.")
    return rows, inputs, taps


def check_packed(packed: Packed, taps: int) -> None:
    """See that the kernels stay inside of a packed matrix's tensors and of an input of its size.

    Raises:
        KernelError: they would not.
    """
    blocks = packed.first.numel()
    shapes = {
        "first": (blocks,), "count": (blocks,), "start": (blocks + 1,), "column": (packed.entries,),
        "values": (packed.entries, packed.height), "bias": (blocks, packed.height),
    }  # fmt: skip
    for name, tensor in packed.tensors().items():
        dtype = torch.float32 if name in ("values", "bias") else torch.int32
        if tensor.dtype != dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise KernelError(
                f"{name} of a packed matrix is {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}; the "
                f"kernels need contiguous {str(dtype).removeprefix('torch.')} on the CPU. Remedy: pack again."
            )
        if tuple(tensor.shape) != shapes[name]:
            raise KernelError(
                f"{name} of a packed matrix has shape {tuple(tensor.shape)}, not {shapes[name]}."
            )
    last = packed.first.long() + packed.count
    tiles = torch.cat(
        [last.new_zeros(1), last]
    )  # the row blocks follow each other, from the first row to the last
    planes = -(-packed.columns // 4) * packed.planes if packed.planes else packed.columns
    sound = (
        packed.height in HEIGHTS
        and packed.planes in ((0, 8, 12) if packed.height == 1 else (0,))
        and bool((packed.count >= 1).all() and (packed.count <= packed.height).all())
        and torch.equal(tiles[:-1], packed.first.long())
        and int(tiles[-1]) == packed.rows
        and int(packed.start[0]) == 0
        and int(packed.start[-1]) == packed.entries
        and bool((packed.start.diff() >= 0).all())
        and bool((packed.column >= 0).all())
        and bool((packed.column >> TAP_BITS < planes).all())
        and bool((packed.column & (1 << TAP_BITS) - 1 < taps).all())
    )
    if not sound:
        raise KernelError(
            f"A packed matrix of {packed.rows} x {packed.columns} is damaged: its blocks or columns lie outside of it. "
            "Remedy: pack the weight again."
        )


def row_blocks(matrix: Tensor, height: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut (outputs, columns) into (blocks, height, columns), zeros behind each group's last row; first rows; counts."""
    rows, columns = matrix.shape
    each = rows // groups
    of_group = -(-each // height)
    padded = F.pad(matrix.reshape(groups, each, columns), (0, 0, 0, of_group * height - each))
    offset = torch.arange(0, of_group * height, height)
    first = torch.arange(0, rows, each)[:, None] + offset
    count = (each - offset).clamp(max=height).expand(groups, -1)
    return padded.reshape(-1, height, columns), first.flatten().int(), count.flatten().int().contiguous()


def starts(counts: Tensor) -> Tensor:
    return F.pad(counts.cumsum(0), (1, 0)).int()


def blocked_bias(bias: Tensor | None, first: Tensor, count: Tensor, height: int) -> Tensor:
    """Return the bias as (blocks, height), zeros where there is no row."""
    if bias is None:
        return torch.zeros(len(first), height)
    row = torch.arange(height)
    at = (first[:, None] + row).clamp(max=len(bias) - 1).long()
    return torch.where(row < count[:, None], bias.detach()[at], 0.0).contiguous()
