"""The int8 kernels on tensors: inputs are checked, outputs allocated, pointers passed."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.ground.errors import KernelError

from ..geometry import Window, geometry
from ..library import Conv, Int8Matrix, Library
from ..packing import TAP_BITS
from ..run import FORMS, succeed
from .packing import Int8Packed, check_int8

__all__ = [
    "Int8Form",
    "Int8Prepared",
    "checked_words",
    "int8_conv_form",
    "int8_linear_form",
    "prepare_int8",
    "run_int8_conv",
    "run_int8_linear",
]


@dataclass(frozen=True)
class Int8Form:
    """The C structure of a packed layer for inputs of one form, and the tensors to which it points."""

    matrix: Int8Matrix
    pointer: ctypes._Pointer[Int8Matrix]
    alive: tuple[Tensor | None, ...]
    conv: Conv | None = None
    out_size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Int8Prepared:
    """A packed layer that was checked, and its C structures by library, window and input size, made at first use."""

    packed: Int8Packed
    forms: dict[tuple[str, Window | None, int, int], Int8Form] = field(default_factory=dict)

    def form(
        self, library: Library, window: Window | None = None, height: int = 0, width: int = 0
    ) -> Int8Form:
        """Return the structure for a linear layer, or for a convolution on images of height x width pixels.

        Raises:
            KernelError: the images are too small or too large.
        """
        key = library.instruction_set, window, height, width
        found = self.forms.get(key)
        if found is None:
            if len(self.forms) >= FORMS:  # inputs of ever new sizes
                self.forms.clear()
            wide = bool(library.handle.secateur_int8_wide(self.packed.most_x))
            found = self.forms[key] = self._make(wide, window, height, width)
        return found

    def _make(self, wide: bool, window: Window | None, height: int, width: int) -> Int8Form:
        packed = self.packed
        place = None if window is None else geometry(window, height, width)
        offsets = packed.column >> TAP_BITS if place is None else place.offsets(packed.column)
        alive = (
            packed.start, offsets, _wide(packed.values) if wide else packed.values, packed.bias,
            _ended(packed.multiplier), None if packed.ratio is None else _ended(packed.ratio), packed.table,
        )  # fmt: skip
        matrix = Int8Matrix(
            packed.rows, packed.columns, packed.height, len(packed.start) - 1, int(wide), int(packed.floats),
            packed.zero_x, packed.zero_y, packed.zero_residual, packed.low, packed.high,
            *(None if t is None else t.data_ptr() for t in alive),
        )  # fmt: skip
        out = (0, 0) if place is None else (place.out_height, place.out_width)
        return Int8Form(matrix, ctypes.pointer(matrix), alive, None if place is None else place.conv, out)


def _wide(values: Tensor) -> Tensor:
    """Return int16 (entries, 2, height, 2): the even and the odd inputs' values."""
    return values.to(torch.int16).reshape(*values.shape[:2], 2, 2).permute(0, 3, 1, 2).contiguous()


def _ended(rows: Tensor) -> Tensor:
    """Return values of rows with zeros behind them, as far as the widest vectors read."""
    return F.pad(rows.flatten(), (0, 16))


def prepare_int8(packed: Int8Packed, taps: int = 1) -> Int8Prepared:
    """Check a packed layer, whatever file it comes from, and make ready to apply it.

    Raises:
        KernelError: it is not one that `pack_int8` makes for a kernel of so many taps.
    """
    check_int8(packed, taps)
    return Int8Prepared(packed)


def run_int8_linear(
    library: Library, prepared: Int8Prepared, x: Tensor, residual: Tensor | None = None
) -> Tensor:
    """Multiply words (..., inputs / 4, 4) to words (..., outputs / 4, 4), or to float32 (..., outputs).

    Raises:
        KernelError: wrong dtype, device or shape.
    """
    x = checked_words(x, "input")
    form, shape, rows = int8_linear_form(library, prepared, x.shape)
    y, added = _output(prepared.packed, shape), _residual(prepared.packed, residual, shape)
    if y.numel():
        succeed(
            library.handle.secateur_int8_linear(
                form.pointer, x.data_ptr(), None if added is None else added.data_ptr(), y.data_ptr(), rows,
                torch.get_num_threads(),
            )
        )  # fmt: skip
    return y


def run_int8_conv(
    library: Library, prepared: Int8Prepared, window: Window, x: Tensor, residual: Tensor | None = None
) -> Tensor:
    """Convolve words (images, channels / 4, height, width, 4) to words, or to float32 of images.

    Raises:
        KernelError: wrong dtype, device or shape, or an input smaller than the kernel.
    """
    x = checked_words(x, "input")
    form, shape, images = int8_conv_form(library, prepared, window, x.shape)
    y, added = _output(prepared.packed, shape), _residual(prepared.packed, residual, shape)
    if y.numel():
        succeed(
            library.handle.secateur_int8_conv(
                form.pointer, form.conv, x.data_ptr(), None if added is None else added.data_ptr(), y.data_ptr(),
                images, torch.get_num_threads(),
            )
        )  # fmt: skip
    return y


def int8_linear_form(
    library: Library, prepared: Int8Prepared, shape: Sequence[int]
) -> tuple[Int8Form, tuple[int, ...], int]:
    """Return the C structure for words of a shape, the shape of the output's words and the number of rows.

    Raises:
        KernelError: words of this shape cannot be taken.
    """
    packed = prepared.packed
    if len(shape) < 2 or tuple(shape[-2:]) != (-(-packed.columns // 4), 4):
        raise KernelError(
            f"The input's words have shape {tuple(shape)}; a layer of {packed.columns} inputs was packed: "
            f"(..., {-(-packed.columns // 4)}, 4)."
        )
    return prepared.form(library), (*shape[:-2], -(-packed.rows // 4), 4), math.prod(shape[:-2])


def int8_conv_form(
    library: Library, prepared: Int8Prepared, window: Window, shape: Sequence[int]
) -> tuple[Int8Form, tuple[int, ...], int]:
    """Return the C structures for words of a shape, the shape of the output's words and the number of images.

    Raises:
        KernelError: words of this shape cannot be taken.
    """
    packed = prepared.packed
    if len(shape) != 5 or shape[1] != -(-packed.columns // 4) or shape[4] != 4:
        raise KernelError(
            f"The input's words have shape {tuple(shape)}; a convolution of {packed.columns} input channels was "
            f"packed, of words (images, {-(-packed.columns // 4)}, height, width, 4)."
        )
    form = prepared.form(library, window, shape[2], shape[3])
    return form, (shape[0], -(-packed.rows // 4), *form.out_size, 4), shape[0]


def _output(packed: Int8Packed, shape: tuple[int, ...]) -> Tensor:
    """Return an uninitialised output whose words have a shape."""
    if not packed.floats:
        return torch.empty(shape, dtype=torch.uint8)
    if len(shape) == 5:
        return torch.empty(shape[0], packed.rows, *shape[2:4])
    return torch.empty(*shape[:-2], packed.rows)


def _residual(packed: Int8Packed, residual: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    if (residual is None) != (packed.ratio is None):
        raise KernelError(
            "This layer was packed without a residual's levels. Remedy: pack_int8(..., residual=levels)."
            if packed.ratio is None
            else "This layer was packed with a residual's levels, and no residual is given."
        )
    return None if residual is None else checked_words(residual, "residual", shape)


def checked_words(x: Tensor, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return words that the kernels can read, contiguous.

    Raises:
        KernelError: wrong dtype, device or shape.
    """
    if x.dtype != torch.uint8 or x.device.type != "cpu":
        raise KernelError(
            f"The {name} is {str(x.dtype).removeprefix('torch.')} on {x.device}; the int8 kernels take uint8 words on "
            "the CPU. Remedy: Int8Tensor.of_images or Int8Tensor.of_features."
        )
    if shape is not None and tuple(x.shape) != shape:
        raise KernelError(f"The {name}'s words have shape {tuple(x.shape)}, the output's {shape}.")
    x = x.contiguous()
    return x if x.data_ptr() % 4 == 0 else x.clone()
