"""Geometry: a convolution's input laid into planes, such that a tap is an offset and neighbouring pixels are lanes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from secateur.ground.errors import KernelError

from .library import Conv
from .packing import TAP_BITS

__all__ = ["Geometry", "Window", "geometry"]

LANES = 16  # of the widest vectors; planes are no smaller


@dataclass(frozen=True)
class Window:
    """What a convolution reads: kernel, stride, zeros (top, bottom, left, right) and dilation."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    @staticmethod
    def of(kernel: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> Window:
        """Return the window that torch means by one number or two, or by a padding in a word.

        >>> Window.of(3, (2, 1), "same").padding
        (1, 1, 1, 1)
        """
        (kh, kw), (dh, dw) = _pair(kernel), _pair(dilation)
        if padding == "same":
            high, wide = dh * (kh - 1), dw * (kw - 1)
            sides = (high // 2, high - high // 2, wide // 2, wide - wide // 2)
        else:
            high, wide = (0, 0) if padding == "valid" else _pair(padding)
            sides = (high, high, wide, wide)
        return Window((kh, kw), _pair(stride), sides, (dh, dw))

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the output.

        Raises:
            KernelError: the kernel is larger than the padded input.

        >>> Window((3, 3), stride=(2, 2), padding=(1, 1, 1, 1)).out_size(7, 8)
        (4, 4)
        """
        top, bottom, left, right = self.padding
        found = tuple(
            (size + pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, pad, dilation, kernel, stride in zip(
                (height, width),
                (top + bottom, left + right),
                self.dilation,
                self.kernel,
                self.stride,
                strict=True,
            )
        )
        if min(found) < 1:
            raise KernelError(
                f"An input of {height} x {width} pixels is smaller than the kernel {self.kernel} with dilation "
                f"{self.dilation} and padding {self.padding}."
            )
        return found[0], found[1]


@dataclass(frozen=True)
class Geometry:
    """A window on an input of one size, for the kernels. The structure points into `phase`."""

    conv: Conv
    out_height: int
    out_width: int
    phase: Tensor
    taps: Tensor  # offset of what each tap reads from its pixel's place in the channel

    def offsets(self, column: Tensor) -> Tensor:
        """Return where in the laid planes a packed matrix's entries read."""
        plane = self.conv.phases * self.conv.phase_plane
        channel, tap = column >> TAP_BITS, column & (1 << TAP_BITS) - 1
        return torch.add(channel * plane, self.taps[tap.long()])


@lru_cache(maxsize=4096)
def geometry(window: Window, height: int, width: int) -> Geometry:
    """Lay out an input of height x width pixels.

    With a stride, pixels of one remainder (phase) lie together. Zeros between two rows serve both, where there is no
    stride: the row pitch is width + padding, not width + 2 padding.

    Raises:
        KernelError: the kernel is larger than the padded input, or the planes are too large.
    """
    out_height, out_width = window.out_size(height, width)
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    top, _, left, _ = window.padding
    rows, columns = [i * dh for i in range(kh)], [j * dw for j in range(kw)]
    phases = sorted({(i % sh, j % sw) for i in rows for j in columns})
    below, right = max(i // sh for i in rows), max(j // sw for j in columns)
    needed = out_width + right  # columns that some tap reads
    pitch = needed
    if sw == 1 and needed > left + width:  # zeros on the right are those on the left of the next row
        pitch = max(left + width, needed - left, out_width)
    phase_rows = out_height + below
    plane = max(phase_rows * pitch + needed - pitch, LANES)
    if plane * len(phases) >= 1 << 30:
        raise KernelError(f"An input of {height} x {width} pixels is too large for the kernels.")
    taps = [phases.index((i % sh, j % sw)) * plane + i // sh * pitch + j // sw for i in rows for j in columns]
    whole = pitch == width == out_width and phase_rows == height == out_height and phases == [(0, 0)]
    phase = torch.tensor(phases, dtype=torch.int32)
    offsets = torch.tensor(taps, dtype=torch.int32)
    conv = Conv(
        height, width, out_height, out_width, sh, sw, top, left, len(phases), phase_rows, pitch, plane,
        int(whole and not any(window.padding) and height * width >= LANES), phase.data_ptr(),
    )  # fmt: skip
    return Geometry(conv, out_height, out_width, phase, offsets)


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return int(values[0]), int(values[-1])
