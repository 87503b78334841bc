"""The int8 kernels as torch operators, so that they survive torch.export and torch.compile."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..dense import warn_once
from ..geometry import Window
from ..ops import found_library
from .dense import dense_int8_conv, dense_int8_linear
from .packing import Int8Packed
from .run import Int8Prepared, prepare_int8, run_int8_conv, run_int8_linear

__all__ = ["numbers_of", "packed_of", "sparse_int8_conv2d", "sparse_int8_linear"]

_prepared: MutableMapping[Tensor, tuple[tuple[int, ...], Int8Prepared]] = WeakTensorKeyDictionary()


def numbers_of(packed: Int8Packed) -> tuple[list[int], list[float], bool]:
    """Return what an operator takes of a layer beside its tensors: whole numbers, limits, whether y is floats."""
    whole = [packed.rows, packed.columns, packed.most_x, packed.zero_x, packed.zero_y, packed.zero_residual]
    return whole, [packed.low, packed.high], packed.floats


def packed_of(
    tensors: Sequence[Tensor], ratio: Tensor | None, table: Tensor | None, whole: Sequence[int],
    limits: Sequence[float], floats: bool,
) -> Int8Packed:  # fmt: skip
    """Return the packed layer of what an operator takes: start, column, values, bias, multiplier, then the rest."""
    start, column, values, bias, multiplier = tensors
    rows, columns, most_x, zero_x, zero_y, zero_residual = whole
    return Int8Packed(
        start, column, values, bias, multiplier, ratio, table, rows, columns, most_x, zero_x, zero_y, zero_residual,
        limits[0], limits[1], floats,
    )  # fmt: skip


def _prepare(packed: Int8Packed, taps: int) -> Int8Prepared:
    """Return the layer as it was prepared for the last calls with the same tensors, the objects and their memory."""
    tensors = packed.tensors()
    whole, _, floats = numbers_of(packed)
    key = (*(t.data_ptr() for t in tensors.values()), *whole, taps, int(floats))
    known = _prepared.get(packed.column)
    if known is None or known[0] != key:
        # Views: they keep the memory, and not the tensor with which this entry ends.
        views: dict[str, Any] = {name: t.detach() for name, t in tensors.items()}
        known = key, prepare_int8(replace(packed, **views), taps)
        _prepared[packed.column] = known
    return known[1]


@torch.library.custom_op("secateur::sparse_int8_linear", mutates_args=())
def sparse_int8_linear(
    x: Tensor, start: Tensor, column: Tensor, values: Tensor, bias: Tensor, multiplier: Tensor, ratio: Tensor | None,
    table: Tensor | None, whole: Sequence[int], limits: Sequence[float], floats: bool, residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Multiply words (..., inputs / 4, 4), uint8, by a packed layer; see `secateur.runtime.int8.Int8Packed`."""
    packed = packed_of((start, column, values, bias, multiplier), ratio, table, whole, limits, floats)
    found = found_library()
    if found.library is None:
        warn_once(found.reason)
        return dense_int8_linear(packed, x, residual)
    return run_int8_linear(found.library, _prepare(packed, 1), x, residual)


@sparse_int8_linear.register_fake
def _(
    x: Tensor, start: Tensor, column: Tensor, values: Tensor, bias: Tensor, multiplier: Tensor, ratio: Tensor | None,
    table: Tensor | None, whole: Sequence[int], limits: Sequence[float], floats: bool, residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    if floats:
        return x.new_empty((*x.shape[:-2], whole[0]), dtype=torch.float32)
    return x.new_empty((*x.shape[:-2], -(-whole[0] // 4), 4))


@torch.library.custom_op("secateur::sparse_int8_conv2d", mutates_args=())
def sparse_int8_conv2d(
    x: Tensor, start: Tensor, column: Tensor, values: Tensor, bias: Tensor, multiplier: Tensor, ratio: Tensor | None,
    table: Tensor | None, whole: Sequence[int], limits: Sequence[float], floats: bool, kernel: Sequence[int],
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Convolve words (images, channels / 4, height, width, 4), uint8; padding is top, bottom, left, right."""
    packed = packed_of((start, column, values, bias, multiplier), ratio, table, whole, limits, floats)
    window, found = _window(kernel, stride, padding, dilation), found_library()
    if found.library is None:
        warn_once(found.reason)
        return dense_int8_conv(packed, window, x, residual)
    return run_int8_conv(found.library, _prepare(packed, kernel[0] * kernel[1]), window, x, residual)


def _window(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Window:
    top, bottom, left, right = padding
    return Window(
        (kernel[0], kernel[1]), (stride[0], stride[1]), (top, bottom, left, right), (dilation[0], dilation[1])
    )


@sparse_int8_conv2d.register_fake
def _(
    x: Tensor, start: Tensor, column: Tensor, values: Tensor, bias: Tensor, multiplier: Tensor, ratio: Tensor | None,
    table: Tensor | None, whole: Sequence[int], limits: Sequence[float], floats: bool, kernel: Sequence[int],
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    sizes = [
        (size + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i, size in enumerate(x.shape[2:4])
    ]
    if floats:
        return x.new_empty((x.shape[0], whole[0], *sizes), dtype=torch.float32)
    return x.new_empty((x.shape[0], -(-whole[0] // 4), *sizes, 4))
