"""The kernels on tensors: inputs are checked, outputs allocated, pointers passed."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.ground.errors import KernelError

from .geometry import Window, geometry
from .library import Conv, Library, Matrix
from .memory import Memory
from .packing import TAP_BITS, Activation, Packed, check_packed

FORMS = 64  # of one layer

__all__ = [
    "Form",
    "Prepared",
    "checked",
    "conv_form",
    "linear_form",
    "prepare",
    "run_conv",
    "run_linear",
    "succeed",
]


@dataclass(frozen=True)
class Form:
    """The C structure of a packed matrix for inputs of one form, and the offsets to which it points."""

    matrix: Matrix
    pointer: ctypes._Pointer[Matrix]
    offsets: Tensor
    conv: Conv | None = None
    out_size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Prepared:
    """A packed matrix that was checked, and its C structures by window and input size, made at first use."""

    packed: Packed
    activation: Activation
    add_last: bool
    forms: dict[tuple[Window, int, int] | None, Form] = field(default_factory=dict)

    def form(self, window: Window | None = None, height: int = 0, width: int = 0) -> Form:
        """Return the structure for a linear layer, or for a convolution on images of height x width pixels.

        Raises:
            KernelError: the images are too small or too large.
        """
        key = None if window is None else (window, height, width)
        found = self.forms.get(key)
        if found is None:
            if len(self.forms) >= FORMS:  # inputs of ever new sizes
                self.forms.clear()
            found = self.forms[key] = self._make(window, height, width)
        return found

    def _make(self, window: Window | None, height: int, width: int) -> Form:
        packed = self.packed
        place = None if window is None else geometry(window, height, width)
        offsets = packed.column >> TAP_BITS if place is None else place.offsets(packed.column)
        tensors = (packed.first, packed.count, packed.start, offsets, packed.values, packed.bias)
        matrix = Matrix(
            packed.rows, packed.columns, packed.height, len(packed.first), packed.planes, int(self.activation),
            int(self.add_last), *(t.data_ptr() for t in tensors),
        )  # fmt: skip
        out = (0, 0) if place is None else (place.out_height, place.out_width)
        return Form(matrix, ctypes.pointer(matrix), offsets, None if place is None else place.conv, out)


def prepare(
    packed: Packed, taps: int = 1, activation: Activation = Activation.NONE, add_last: bool = False
) -> Prepared:
    """Check a packed matrix, whatever file it comes from, and make ready to apply it.

    A residual that is given to a call is added in front of the activation, or behind it if `add_last`.

    Raises:
        KernelError: it is not one that `pack` makes for a kernel of so many taps.
    """
    check_packed(packed, taps)
    return Prepared(packed, activation, add_last)


def run_linear(
    library: Library,
    prepared: Prepared,
    x: Tensor,
    residual: Tensor | None = None,
    memory: Memory | None = None,
) -> Tensor:
    """Multiply (..., inputs) float32 to (..., outputs), which `memory` gives (None: torch).

    Raises:
        KernelError: wrong dtype, device or shape.
    """
    x = checked(x, "input")
    form, shape, rows = linear_form(prepared, x.shape)
    y = torch.empty(shape) if memory is None else memory.empty(shape)
    if y.numel():
        residual = None if residual is None else checked(residual, "residual", y.shape)
        succeed(
            library.handle.secateur_linear(
                form.pointer, x.data_ptr(), None if residual is None else residual.data_ptr(), y.data_ptr(), rows,
                torch.get_num_threads(),
            )
        )  # fmt: skip
    return y


def run_conv(
    library: Library, prepared: Prepared, window: Window, x: Tensor, residual: Tensor | None = None,
    memory: Memory | None = None,
) -> Tensor:  # fmt: skip
    """Convolve (batch, channels, height, width) float32, or one image without the batch; see `run_linear`.

    Raises:
        KernelError: wrong dtype, device or shape, or an input smaller than the kernel.
    """
    x = checked(x, "input")
    form, shape, images = conv_form(prepared, window, x.shape)
    y = torch.empty(shape) if memory is None else memory.empty(shape)
    if y.numel():
        residual = None if residual is None else checked(residual, "residual", y.shape)
        succeed(
            library.handle.secateur_conv(
                form.pointer, form.conv, x.data_ptr(), None if residual is None else residual.data_ptr(),
                y.data_ptr(), images, torch.get_num_threads(),
            )
        )  # fmt: skip
    return y


def linear_form(prepared: Prepared, shape: Sequence[int]) -> tuple[Form, tuple[int, ...], int]:
    """Return the C structure for inputs of a shape, the output's shape and the number of rows.

    Raises:
        KernelError: inputs of this shape cannot be taken.
    """
    packed = prepared.packed
    if not shape or shape[-1] != packed.columns:
        raise KernelError(
            f"The input has shape {tuple(shape)}; a layer of {packed.columns} inputs was packed."
        )
    return prepared.form(), (*shape[:-1], packed.rows), math.prod(shape[:-1])


def conv_form(prepared: Prepared, window: Window, shape: Sequence[int]) -> tuple[Form, tuple[int, ...], int]:
    """Return the C structures for images of a shape, the output's shape and the number of images.

    Raises:
        KernelError: inputs of this shape cannot be taken.
    """
    packed = prepared.packed
    if len(shape) not in (3, 4) or shape[-3] != packed.columns:
        raise KernelError(
            f"The input has shape {tuple(shape)}; a convolution of {packed.columns} input channels was packed."
        )
    form = prepared.form(window, shape[-2], shape[-1])
    return form, (*shape[:-3], packed.rows, *form.out_size), math.prod(shape[:-3])


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
