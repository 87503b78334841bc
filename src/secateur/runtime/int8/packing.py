"""Packing: an int8 layer with zero blocks of rows x 4 into the kernels' layout, its rescaling worked out before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from secateur.ground.errors import KernelError

from ..packing import TAP_BITS, Activation, starts
from .levels import Levels
from .tables import TABLED, activation_table

__all__ = [
    "COST",
    "INT8_HEIGHTS",
    "Int8Packed",
    "check_int8",
    "flat_weight",
    "free_units",
    "pack_int8",
    "unpack_int8",
]

INT8_HEIGHTS = (4, 8, 16)
"""Rows of a block that the int8 kernels know; all are four inputs wide."""

COST = {4: 1.06, 8: 1.0, 16: 1.0}
"""What a product costs by height: estimates, which only choose among heights."""

LIMIT = 3.0e38  # of a float output without an activation


@dataclass(frozen=True)
class Int8Packed:
    """An int8 layer in the kernels' layout: blocks of `height` rows, each with the words of inputs that it reads.

    Block b has the rows from ``height * b`` on and the entries ``start[b] ... start[b + 1]``. Entry e reads the four
    input channels from ``4 * (column[e] >> 8)`` on, at tap ``column[e] & 255``. A row's sum begins with its bias, of
    which the inputs' zero point is taken off; the sum times the multiplier, rounded to even, is the output's level.
    """

    start: Tensor  # (blocks + 1,) int32
    column: Tensor  # (entries,) int32
    values: Tensor  # (entries, height, 4) int8
    bias: Tensor  # (blocks, height) int32
    multiplier: Tensor  # (blocks, height) float32
    ratio: Tensor | None  # (blocks, height) float32: units of a sum in a level of the residual
    table: Tensor | None  # (256,) uint8: the output's level of each rescaled byte
    rows: int
    columns: int  # input features, or channels of all convolution groups
    most_x: int  # the largest input
    zero_x: int
    zero_y: int
    zero_residual: int
    low: float  # of the output, in front of zero_y
    high: float
    floats: bool  # whether the output is float32

    @property
    def height(self) -> int:
        """Rows of a block."""
        return self.values.shape[1]

    @property
    def entries(self) -> int:
        """Stored blocks."""
        return self.column.numel()

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors by name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: t for name, t in found.items() if isinstance(t, Tensor)}


def pack_int8(
    weight: Tensor, scales: Tensor, *, x: Levels, y: Levels | None = None, bias: Tensor | None = None,
    activation: Activation = Activation.NONE, residual: Levels | None = None, groups: int = 1,
    height: int | None = None,
) -> Int8Packed:  # fmt: skip
    """Pack an int8 weight (outputs, inputs of a group, *taps), a row's reals being ``scales[row] * weight[row]``.

    Inputs have the levels `x`, outputs `y` (None: float32). The bias (outputs,) is in reals and is rounded to units of
    a sum. A residual of other levels is added in front of the activation. Zero blocks are found; `height` None takes
    the cheapest. Any convolution groups are taken, at the cost of whole words of four channels. Behind a float output
    only activations that clamp are applied; others are the caller's.

    Raises:
        KernelError: wrong dtypes or shapes, scales that are not above 0, or sums that could pass 32 bits.

    >>> weight = torch.zeros(8, 8, dtype=torch.int8)
    >>> weight[:4, 4:] = 3
    >>> packed = pack_int8(weight, torch.full((8,), 0.01), x=Levels(0.1, 7), height=4)
    >>> packed.entries, packed.bias.flatten().tolist()
    (1, [-84, -84, -84, -84, 0, 0, 0, 0])
    """
    rows, inputs, taps = _check_weight(weight, scales, bias, groups)
    scales = scales.detach().double()
    target = y.scale if y is not None else 1.0
    table, pre = None, y
    if y is not None and activation in TABLED:
        pre, table = activation_table(activation, y)
        target = pre.scale
    matrix = weight.detach().reshape(rows, inputs * taps)
    empty = (matrix == 0).all(1)
    base = torch.zeros(rows, dtype=torch.float64) if bias is None else bias.detach().double()
    unit = torch.where(empty, free_units(target, base, residual), scales * x.scale)
    constant = (base / unit).round() - x.zero * matrix.sum(1, dtype=torch.int64)
    ratio = None if residual is None else residual.scale / unit
    room = constant.abs() + x.most * matrix.abs().sum(1, dtype=torch.int64)
    room += 0 if ratio is None or residual is None else (ratio * residual.most).ceil()
    if not bool((room < 1 << 31).all()):
        row = int(room.nan_to_num(math.inf).argmax())
        raise KernelError(
            f"The sum of output {row} could reach {float(room[row]):.3g}, beyond 32 bits. Remedy: a larger scale of "
            "its weights (its bias or the residual is too many steps of a product), or fewer inputs."
        )
    if not bool((room * (unit / target) < 1 << 31).all()):
        row = int((room * unit).argmax())
        raise KernelError(
            f"Output {row} could reach {float(room[row] * unit[row]):.3g}, too many steps of {target:.3g}. Remedy: a "
            "larger scale of the output's levels."
        )
    if height is None:
        height = _best_height(matrix, rows, inputs, taps, groups)
    if height not in INT8_HEIGHTS:
        raise KernelError(
            f"Blocks of {height} x 4 are not known to the kernels. Remedy: one of {INT8_HEIGHTS}."
        )
    start, column, values = _blocks(matrix, inputs, taps, groups, height)
    low, high = _limits(activation, pre if table is not None else y, table is not None)

    def blocked(row_values: Tensor, dtype: torch.dtype) -> Tensor:
        padded = torch.zeros(len(start) - 1, height, dtype=dtype)
        padded.view(-1)[:rows] = row_values.to(dtype)
        return padded

    return Int8Packed(
        start=start, column=column, values=values, bias=blocked(constant, torch.int32),
        multiplier=blocked(unit / target, torch.float32),
        ratio=None if ratio is None else blocked(ratio, torch.float32),
        table=table, rows=rows, columns=inputs * groups, most_x=x.most, zero_x=x.zero,
        zero_y=0 if pre is None else pre.zero, zero_residual=0 if residual is None else residual.zero,
        low=low, high=high, floats=y is None,
    )  # fmt: skip


def free_units(target: float, bias: Tensor, residual: Levels | None) -> Tensor:
    """Return what one of a sum is worth in rows without weights, float64: fine, but the bias and a residual fit in."""
    largest = bias.abs() + (0.0 if residual is None else residual.scale * residual.most)
    return (largest / (1 << 24)).clamp_min(target / (1 << 16))


def _limits(activation: Activation, levels: Levels | None, tabled: bool) -> tuple[float, float]:
    """Return the ends of an output: in levels in front of the zero point, or in reals."""
    low, high, unit = (-LIMIT, LIMIT, 1.0)
    if levels is not None:
        low, high, unit = float(-levels.zero), float(levels.most - levels.zero), levels.scale
    if tabled:
        return low, high
    if activation in (Activation.RELU, Activation.RELU6):
        low = 0.0
    if activation is Activation.RELU6:
        high = min(high, 6.0 if levels is None else float(round(6.0 / unit)))
    return low, high


def _blocks(
    matrix: Tensor, inputs: int, taps: int, groups: int, height: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return starts, columns and values of the blocks that are not zero; groups stand along the diagonal."""
    rows = len(matrix)
    quads = -(-inputs * groups // 4)
    row, local = matrix.nonzero(as_tuple=True)
    channel, tap = row // (rows // groups) * inputs + local // taps, local % taps
    key = ((row // height) * quads + channel // 4) * taps + tap
    found, of = torch.unique(key, return_inverse=True)
    values = torch.zeros(len(found), height, 4, dtype=torch.int8)
    values[of, row % height, channel % 4] = matrix[row, local]
    block, place = found // (quads * taps), found % (quads * taps)
    counts = torch.bincount(block, minlength=-(-rows // height))
    return starts(counts), ((place // taps) << TAP_BITS | place % taps).int(), values


def _best_height(matrix: Tensor, rows: int, inputs: int, taps: int, groups: int) -> int:
    def cost(height: int) -> float:
        return len(_blocks(matrix, inputs, taps, groups, height)[1]) * height * COST[height]

    return min(reversed(INT8_HEIGHTS), key=cost)


def unpack_int8(packed: Int8Packed, taps: tuple[int, ...] = ()) -> Tensor:
    """Return the dense weight int8 (outputs, inputs of all groups, *taps): zero where another group's inputs are."""
    each = math.prod(taps)
    quads = -(-packed.columns // 4)
    of = torch.repeat_interleave(torch.arange(len(packed.start) - 1), packed.start.diff().long())
    quad, tap = packed.column.long() >> TAP_BITS, packed.column.long() & (1 << TAP_BITS) - 1
    whole = packed.values.new_zeros(len(packed.start) - 1, packed.height, quads, 4, each)
    whole[of, :, quad, :, tap] = packed.values
    return whole.reshape(-1, quads * 4, *taps)[: packed.rows, : packed.columns].contiguous()


def flat_weight(weight: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Return a linear weight (outputs, channels * height * width) for inputs in the order of `Int8Tensor.features`.

    >>> flat_weight(torch.arange(8)[None], 2, 2, 2)
    tensor([[0, 4, 0, 0, 1, 5, 0, 0, 2, 6, 0, 0, 3, 7, 0, 0]])
    """
    if height * width == 1:
        return weight
    quads = -(-channels // 4)
    padded = weight.new_zeros(len(weight), quads * 4, height * width)
    padded[:, :channels] = weight.reshape(len(weight), channels, height * width)
    return padded.reshape(len(weight), quads, 4, -1).transpose(2, 3).reshape(len(weight), -1).contiguous()


def _check_weight(weight: Tensor, scales: Tensor, bias: Tensor | None, groups: int) -> tuple[int, int, int]:
    if weight.dtype != torch.int8 or weight.device.type != "cpu":
        raise KernelError(
            f"The weight is {str(weight.dtype).removeprefix('torch.')} on {weight.device}; these kernels take int8 on "
            "the CPU."
        )
    if weight.dim() < 2 or 0 in weight.shape:
        raise KernelError(
            f"A weight (outputs, inputs, ...) has two or more dimensions, not {tuple(weight.shape)}."
        )
    rows, inputs, taps = weight.shape[0], weight.shape[1], weight[0, 0].numel()
    if rows % groups:
        raise KernelError(f"{rows} outputs are not divisible by {groups} groups.")
    if taps > 1 << TAP_BITS:
        raise KernelError(f"A kernel of {taps} taps is too large; the kernels take up to {1 << TAP_BITS}.")
    if inputs * groups >= 1 << 20:
        raise KernelError(f"{inputs * groups} inputs are too many; the kernels take fewer than {1 << 20}.")
    for name, tensor in (("scales", scales), ("bias", bias)):
        if tensor is not None and (tensor.shape != (rows,) or not tensor.is_floating_point()):
            raise KernelError(
                f"The {name} are {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}; a float for each of "
                f"{rows} outputs is needed."
            )
        if tensor is not None and not bool(tensor.isfinite().all()):
            raise KernelError(f"The {name} are not finite.")
    if not bool((scales > 0).all()):
        raise KernelError(
            f"The scale of output {int(scales.argmin())} is {float(scales.min())}, not above 0."
        )
    return rows, inputs, taps


def check_int8(packed: Int8Packed, taps: int) -> None:
    """See that the kernels stay inside of a packed layer's tensors and of an input of its size.

    Raises:
        KernelError: they would not.
    """
    blocks = packed.start.numel() - 1
    i, f, whole = torch.int32, torch.float32, (blocks, packed.height)
    wanted = {
        "start": (i, (blocks + 1,)), "column": (i, (packed.entries,)),
        "values": (torch.int8, (packed.entries, packed.height, 4)), "bias": (i, whole), "multiplier": (f, whole),
        "ratio": (f, whole), "table": (torch.uint8, (256,)),
    }  # fmt: skip
    for name, tensor in packed.tensors().items():
        dtype, shape = wanted[name]
        if tensor.dtype != dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise KernelError(
                f"{name} of a packed layer is {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}; the "
                f"kernels need contiguous {str(dtype).removeprefix('torch.')} on the CPU. Remedy: pack again."
            )
        if tuple(tensor.shape) != shape:
            raise KernelError(f"{name} of a packed layer has shape {tuple(tensor.shape)}, not {shape}.")
    sound = (
        packed.height in INT8_HEIGHTS
        and blocks == -(-packed.rows // packed.height)
        and int(packed.start[0]) == 0
        and int(packed.start[-1]) == packed.entries
        and bool((packed.start.diff() >= 0).all())
        and bool((packed.column >= 0).all())
        and bool((packed.column >> TAP_BITS < -(-packed.columns // 4)).all())
        and bool((packed.column & (1 << TAP_BITS) - 1 < taps).all())
    )
    if not sound:
        raise KernelError(
            f"A packed layer of {packed.rows} x {packed.columns} is damaged: its blocks or columns lie outside of it. "
            "Remedy: pack the weight again."
        )
