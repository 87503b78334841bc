"""Int8 layers without the kernels: the same integers from torch, for machines where nothing is compiled. Slow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..geometry import Window
from .levels import channels_of, words_of
from .packing import Int8Packed, unpack_int8

__all__ = ["dense_int8_conv", "dense_int8_linear"]


def dense_int8_linear(packed: Int8Packed, x: Tensor, residual: Tensor | None) -> Tensor:
    """Return what `run_int8_linear` does. Float64 holds the sums exactly."""
    weight = _weight(packed, ())
    sums = F.linear(channels_of(x, False).double(), weight) + packed.bias.flatten()[: packed.rows]
    added = None if residual is None else channels_of(residual, False)[..., : packed.rows]
    return _finished(packed, sums, added, images=False)


def dense_int8_conv(packed: Int8Packed, window: Window, x: Tensor, residual: Tensor | None) -> Tensor:
    """Return what `run_int8_conv` does."""
    top, bottom, left, right = window.padding
    laid = F.pad(channels_of(x, True).double(), (left, right, top, bottom), value=packed.zero_x)
    sums = F.conv2d(laid, _weight(packed, window.kernel), None, window.stride, 0, window.dilation)
    sums += packed.bias.flatten()[: packed.rows, None, None]
    added = None if residual is None else channels_of(residual, True)[:, : packed.rows]
    return _finished(packed, sums, added, images=True)


def _weight(packed: Int8Packed, taps: tuple[int, ...]) -> Tensor:
    """Return the weight for all bytes of the words."""
    weight = unpack_int8(packed, taps).double()
    missing = -packed.columns % 4
    return F.pad(weight, (*(0, 0) * len(taps), 0, missing)) if missing else weight


def _finished(packed: Int8Packed, sums: Tensor, residual: Tensor | None, images: bool) -> Tensor:
    """Return bytes as words, or floats: each product is rounded to float32, each level to even."""

    def by_row(values: Tensor) -> Tensor:
        values = values.flatten()[: packed.rows]
        return values[:, None, None] if images else values

    if residual is not None:
        assert packed.ratio is not None
        sums = sums + ((residual.int() - packed.zero_residual).float() * by_row(packed.ratio)).round()
    reals = (sums.float() * by_row(packed.multiplier)).clamp(packed.low, packed.high)
    if packed.floats:
        return reals
    levels = (reals.round() + packed.zero_y).to(torch.uint8)
    return words_of(levels if packed.table is None else packed.table[levels.long()], images)
