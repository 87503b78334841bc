"""Unified blocks: four inputs under one magnitude are one product with a signed sum that all outputs share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from secateur.ground.errors import KernelError

from .packing import TAP_BITS, Packed, blocked_bias, check_weight, starts

__all__ = ["pack_unified", "unpack_unified"]

# Plane k of four inputs holds x0 +- x1 +- x2 +- x3: bit 0 of k turns the sign of x1, bit 1 that of x2, bit 2 of x3.
_SIGNS = torch.tensor([[1, 1 - 2 * (k & 1), 1 - 2 * (k >> 1 & 1), 1 - 2 * (k >> 2)] for k in range(8)])


def pack_unified(weight: Tensor, bias: Tensor | None = None, *, groups: int = 1) -> Packed:
    """Pack a weight (outputs, inputs of a group, *taps) by blocks of one output x four input channels at one tap.

    Blocks of zeros are dropped; a block of one magnitude is one entry; any other block is an entry for each of its
    weights that is not zero.

    Raises:
        KernelError: wrong dtype or shape, or convolution groups whose inputs are no multiple of four.

    >>> packed = pack_unified(torch.tensor([[2.0, -2, 2, 2, 0, 0, 0, 0], [1, 0, 0, 0, -3, -3, -3, -3]]))
    >>> packed.entries, packed.values.flatten()
    (3, tensor([ 2.,  1., -3.]))
    """
    rows, inputs, taps = check_weight(weight, bias, groups)
    if groups > 1 and inputs % 4:
        raise KernelError(
            f"Convolution groups of {inputs} inputs cannot be cut into blocks of four. Remedy: zero blocks (pack)."
        )
    fours = -(-inputs // 4)
    dense = weight.detach().reshape(rows, inputs, taps)
    # (outputs, fours, taps, 4); inputs that are not there take the first one's magnitude, and meet zeros.
    blocks = dense.new_zeros(rows, fours * 4, taps)
    blocks[:, :inputs] = dense
    if inputs % 4:
        blocks[:, inputs:] = dense[:, inputs - inputs % 4, None].abs()
    blocks = blocks.reshape(rows, fours, 4, taps).transpose(2, 3)
    magnitude = blocks[..., 0]
    one = (blocks.abs() == magnitude.abs()[..., None]).all(-1)
    turned = torch.sign(blocks) != torch.sign(magnitude)[..., None]
    plane = turned[..., 1] + 2 * turned[..., 2] + 4 * turned[..., 3]
    # Planes 0-7 hold a signed sum, 8-11 the inputs themselves.
    unified = one & (magnitude != 0)
    table = magnitude.new_zeros(rows, fours, taps, 12)
    table.scatter_(-1, plane[..., None], torch.where(unified, magnitude, 0.0)[..., None])
    table[..., 8:] = torch.where(one[..., None], 0.0, blocks)
    if inputs % 4:
        table[:, -1, :, 8 + inputs % 4 :] = 0
    planes = 12 if bool(table[..., 8:].any()) else 8
    row, four, tap, which = (table != 0).nonzero(as_tuple=True)
    group = row // (rows // groups)
    first = torch.arange(rows, dtype=torch.int32)
    count = torch.ones_like(first)
    return Packed(
        first=first,
        count=count,
        start=starts(torch.bincount(row, minlength=rows)),
        column=(((group * fours + four) * planes + which) << TAP_BITS | tap).int(),
        values=table[row, four, tap, which][:, None].contiguous(),
        bias=blocked_bias(bias, first, count, 1),
        rows=rows,
        columns=groups * inputs,
        planes=planes,
    )


def unpack_unified(packed: Packed, taps: tuple[int, ...] = (), groups: int = 1) -> Tensor:
    """Return the dense weight (outputs, inputs of a group, *taps) of a unified matrix.

    >>> weight = torch.tensor([[2.0, -2, 2, 2, 0, 5]])
    >>> torch.equal(unpack_unified(pack_unified(weight)), weight)
    True
    """
    inputs, each = packed.columns // groups, math.prod(taps)
    fours = -(-inputs // 4)
    row = torch.repeat_interleave(torch.arange(packed.rows), packed.start.diff().long())
    plane, tap = packed.column.long() >> TAP_BITS, packed.column.long() & (1 << TAP_BITS) - 1
    four, which = plane // packed.planes - row // (packed.rows // groups) * fours, plane % packed.planes
    signs = torch.cat([_SIGNS, torch.eye(4, dtype=torch.int64)])[which]  # (entries, 4)
    weight = packed.values.new_zeros(packed.rows, fours, each, 4)
    weight.index_put_((row, four, tap), packed.values * signs, accumulate=True)
    return (
        weight.transpose(2, 3)
        .reshape(packed.rows, fours * 4, each)[:, :inputs]
        .reshape(packed.rows, inputs, *taps)
    )
