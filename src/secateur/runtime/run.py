"""The kernels on tensors: inputs are checked, outputs allocated, pointers passed."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import KernelError

from .geometry import Window, geometry
from .library import Library, Matrix
from .packing import Activation, Packed, check_packed

__all__ = ["Prepared", "checked", "prepare", "run_conv", "run_linear", "succeed"]


@dataclass(frozen=True)
class Prepared:
    """The C structure of a packed matrix. It points into the matrix's tensors, which must live as long."""

    matrix: Matrix
    pointer: ctypes._Pointer[Matrix]
    packed: Packed | None  # keeps the tensors; None where the caller does


def prepare(
    packed: Packed, taps: int = 1, activation: Activation = Activation.NONE, add_last: bool = False
) -> Prepared:
    """Check a packed matrix, whatever file it comes from, and make the C structure that applies it.

    A residual that is given to a call is added in front of the activation, or behind it if `add_last`.

    Raises:
        KernelError: it is not one that `pack` makes for a kernel of so many taps.
    """
    check_packed(packed, taps)
    tensors = packed.tensors()
    matrix = Matrix(
        packed.rows, packed.columns, packed.height, len(packed.first), packed.planes, int(activation), int(add_last),
        *(tensors[name].data_ptr() for name in ("first", "count", "start", "column", "values", "bias")),
    )  # fmt: skip
    return Prepared(matrix, ctypes.pointer(matrix), packed)


def run_linear(library: Library, prepared: Prepared, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """Multiply (..., inputs) float32 to (..., outputs).

    Raises:
        KernelError: wrong dtype, device or shape.
    """
    matrix = prepared.matrix
    x = checked(x, "input")
    if x.dim() == 0 or x.shape[-1] != matrix.columns:
        raise KernelError(
            f"The input has shape {tuple(x.shape)}; a layer of {matrix.columns} inputs was packed."
        )
    y = x.new_empty((*x.shape[:-1], matrix.rows))
    if y.numel():
        residual = None if residual is None else checked(residual, "residual", y.shape)
        rows = x.numel() // matrix.columns
        succeed(
            library.handle.secateur_linear(
                prepared.pointer, x.data_ptr(), None if residual is None else residual.data_ptr(), y.data_ptr(), rows,
                torch.get_num_threads(),
            )
        )  # fmt: skip
    return y


def run_conv(
    library: Library, prepared: Prepared, window: Window, x: Tensor, residual: Tensor | None = None
) -> Tensor:
    """Convolve (batch, channels, height, width) float32, or one image without the batch.

    Raises:
        KernelError: wrong dtype, device or shape, or an input smaller than the kernel.
    """
    matrix = prepared.matrix
    x = checked(x, "input")
    if x.dim() not in (3, 4) or x.shape[-3] != matrix.columns:
        raise KernelError(
            f"The input has shape {tuple(x.shape)}; a convolution of {matrix.columns} input channels was packed."
        )
    form = geometry(window, x.shape[-2], x.shape[-1])
    y = x.new_empty((*x.shape[:-3], matrix.rows, form.out_height, form.out_width))
    if y.numel():
        residual = None if residual is None else checked(residual, "residual", y.shape)
        succeed(
            library.handle.secateur_conv(
                prepared.pointer, form.conv, x.data_ptr(), None if residual is None else residual.data_ptr(),
                y.data_ptr(), x.shape[0] if x.dim() == 4 else 1, torch.get_num_threads(),
            )
        )  # fmt: skip
    return y


def checked(x: Tensor, name: str, shape: torch.Size | None = None) -> Tensor:
    """Return a tensor that the kernels can read, contiguous.

    Raises:
        KernelError: wrong dtype, device or shape.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu":
        raise KernelError(
            f"The {name} is {str(x.dtype).removeprefix('torch.')} on {x.device}; the kernels take float32 on the CPU. "
            "Remedy: x.float().cpu()."
        )
    if shape is not None and x.shape != shape:
        raise KernelError(f"The {name} has shape {tuple(x.shape)}, the output {tuple(shape)}.")
    return x.contiguous()


def succeed(code: int) -> None:
    """Raise what a kernel's return code says.

    Raises:
        MemoryError: it could not allocate.
    """
    if code:
        raise MemoryError("The kernels could not allocate their working memory.")
