"""MaxPool2d: max pooling by the kernels, where torch's own takes planes of pixels element by element."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .geometry import Window
from .library import Library, Pool
from .memory import Memory
from .ops import found_library
from .run import checked, succeed

__all__ = ["MaxPool2d", "pool_form", "run_max_pool"]


def run_max_pool(library: Library, window: Window, x: Tensor, memory: Memory | None = None) -> Tensor:
    """Pool (..., height, width) float32 by a window without dilation, whose padding is at most half of its kernel.

    The output is what `memory` gives (None: torch).

    Raises:
        KernelError: wrong dtype or device, or an input smaller than the window.
    """
    x = checked(x, "input")
    pool, shape, planes = pool_form(window, x.shape)
    y = torch.empty(shape) if memory is None else memory.empty(shape)
    if y.numel():
        succeed(
            library.handle.secateur_max_pool(
                ctypes.byref(pool), x.data_ptr(), y.data_ptr(), planes, torch.get_num_threads()
            )
        )
    return y


def pool_form(window: Window, shape: Sequence[int]) -> tuple[Pool, tuple[int, ...], int]:
    """Return the C structure for inputs of a shape, the output's shape and the number of planes.

    Raises:
        KernelError: the input is smaller than the window.
    """
    height, width = shape[-2:]
    out = window.out_size(height, width)
    pool = Pool(height, width, *out, *window.kernel, *window.stride, window.padding[0], window.padding[2])
    return pool, (*shape[:-2], *out), math.prod(shape[:-2])


class MaxPool2d(nn.Module):
    """Max pooling of (batch, channels, height, width) float32, for inference.

    >>> x = torch.randn(2, 3, 9, 9)
    >>> torch.equal(MaxPool2d(Window((3, 3), (2, 2), (1, 1, 1, 1)))(x), F.max_pool2d(x, 3, 2, 1))
    True
    """

    def __init__(self, window: Window, memory: Memory | None = None) -> None:
        super().__init__()
        self.window, self.memory = window, memory

    def forward(self, x: Tensor) -> Tensor:
        """Pool; what is traced or wants a gradient, and machines without kernels, take torch's operator."""
        window = self.window
        direct = type(x) is Tensor and not torch.compiler.is_compiling()
        wants_gradient = torch.is_grad_enabled() and x.requires_grad
        library = found_library().library if direct and not wants_gradient else None
        if library is not None:
            return run_max_pool(library, window, x, self.memory)
        return F.max_pool2d(x, window.kernel, window.stride, (window.padding[0], window.padding[2]))
