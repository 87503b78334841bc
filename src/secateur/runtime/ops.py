"""The kernels as torch operators, so that they survive torch.export and torch.compile."""

from __future__ import annotations

import os
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .dense import dense_conv, dense_linear, warn_once
from .geometry import Window
from .library import VARIABLE, Found, find_library
from .packing import Activation, Packed, unpack
from .run import Prepared, prepare, run_conv, run_linear
from .unified import unpack_unified

__all__ = ["dense_bias", "dense_weight", "found_library", "sparse_conv2d", "sparse_linear"]

_prepared: MutableMapping[Tensor, tuple[tuple[int, ...], Prepared]] = WeakTensorKeyDictionary()


def found_library() -> Found:
    """Return the kernels that are used now, or why there are none."""
    return find_library(os.environ.get(VARIABLE) or None)


def dense_weight(packed: Packed, taps: tuple[int, ...], groups: int) -> Tensor:
    """Return the weight (outputs, inputs of a group, *taps) of any packed matrix."""
    return (unpack_unified if packed.planes else unpack)(packed, taps, groups)


def dense_bias(packed: Packed) -> Tensor:
    """Return the bias (outputs,) of a packed matrix."""
    real = torch.arange(packed.height) < packed.count[:, None]
    return packed.bias[real]


def _prepare(packed: Packed, taps: int, activation: int, add_last: bool) -> Prepared:
    """Return the matrix as it was prepared for the last calls with the same tensors, the objects and their memory."""
    tensors = packed.tensors()
    key = (
        *(t.data_ptr() for t in tensors.values()), packed.rows, packed.columns, packed.planes, taps, activation,
        int(add_last),
    )  # fmt: skip
    known = _prepared.get(packed.column)
    if known is None or known[0] != key:
        # Views: they keep the memory, and not the tensor with which this entry ends.
        views: dict[str, Any] = {name: t.detach() for name, t in tensors.items()}
        known = key, prepare(replace(packed, **views), taps, Activation(activation), add_last)
        _prepared[packed.column] = known
    return known[1]


@torch.library.custom_op("secateur::sparse_linear", mutates_args=())
def sparse_linear(
    x: Tensor, first: Tensor, count: Tensor, start: Tensor, column: Tensor, values: Tensor, bias: Tensor, rows: int,
    columns: int, planes: int, activation: int, residual: Tensor | None = None, add_last: bool = False,
) -> Tensor:  # fmt: skip
    """Multiply (..., columns) by a packed matrix: (..., rows). See `secateur.runtime.Packed` for its tensors."""
    packed, found = Packed(first, count, start, column, values, bias, rows, columns, planes), found_library()
    if found.library is None:
        warn_once(found.reason)
        weight = dense_weight(packed, (), 1)
        return dense_linear(x, weight, dense_bias(packed), Activation(activation), residual, add_last)
    return run_linear(found.library, _prepare(packed, 1, activation, add_last), x, residual)


@sparse_linear.register_fake
def _(
    x: Tensor, first: Tensor, count: Tensor, start: Tensor, column: Tensor, values: Tensor, bias: Tensor, rows: int,
    columns: int, planes: int, activation: int, residual: Tensor | None = None, add_last: bool = False,
) -> Tensor:  # fmt: skip
    return x.new_empty((*x.shape[:-1], rows))


@torch.library.custom_op("secateur::sparse_conv2d", mutates_args=())
def sparse_conv2d(
    x: Tensor, first: Tensor, count: Tensor, start: Tensor, column: Tensor, values: Tensor, bias: Tensor, rows: int,
    columns: int, planes: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int, activation: int, residual: Tensor | None = None, add_last: bool = False,
) -> Tensor:  # fmt: skip
    """Convolve (batch, columns, height, width) by a packed matrix; padding is top, bottom, left, right."""
    packed, found = Packed(first, count, start, column, values, bias, rows, columns, planes), found_library()
    window = Window(
        (kernel[0], kernel[1]), (stride[0], stride[1]), (padding[0], padding[1], padding[2], padding[3]),
        (dilation[0], dilation[1]),
    )  # fmt: skip
    if found.library is None:
        warn_once(found.reason)
        weight = dense_weight(packed, window.kernel, groups)
        return dense_conv(
            x, weight, dense_bias(packed), window, groups, Activation(activation), residual, add_last
        )
    prepared = _prepare(packed, kernel[0] * kernel[1], activation, add_last)
    return run_conv(found.library, prepared, window, x, residual)


@sparse_conv2d.register_fake
def _(
    x: Tensor, first: Tensor, count: Tensor, start: Tensor, column: Tensor, values: Tensor, bias: Tensor, rows: int,
    columns: int, planes: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int, activation: int, residual: Tensor | None = None, add_last: bool = False,
) -> Tensor:  # fmt: skip
    sizes = [
        (size + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i, size in enumerate(x.shape[-2:])
    ]
    return x.new_empty((*x.shape[:-3], rows, *sizes))
