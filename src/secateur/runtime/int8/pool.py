"""Int8MaxPool2d and Int8AveragePool2d: pooling of images without leaving bytes."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.ground.errors import KernelError

from ..geometry import Window
from ..library import Average
from ..pool import pool_form
from ..run import succeed
from .levels import Int8Tensor, Levels, channels_of, words_of
from .pointwise import kernels_for
from .run import checked_words

__all__ = ["Int8AveragePool2d", "Int8MaxPool2d", "average_form", "global_average", "whole_window"]


class Int8MaxPool2d(nn.Module):
    """Max pooling of images of any levels, which stay as they are; padding is at most half of the kernel.

    >>> x = Int8Tensor.of_images(torch.rand(1, 5, 8, 8), Levels(1 / 255, 0))
    >>> torch.equal(Int8MaxPool2d(Window((2, 2), (2, 2)))(x).reals(), F.max_pool2d(x.reals(), 2))
    True
    """

    def __init__(self, window: Window) -> None:
        super().__init__()
        _check(window)
        self.window = window

    def forward(self, x: Int8Tensor) -> Int8Tensor:
        """Pool."""
        window, library = self.window, kernels_for(_images(x).words)
        if library is None:
            top, _, left, _ = window.padding
            pooled = F.max_pool2d(
                channels_of(x.words, True).float(), window.kernel, window.stride, (top, left)
            )
            return x.with_words(words_of(pooled.to(torch.uint8), True))
        words = checked_words(x.words, "input")
        pool, shape, planes = pool_form(window, words.shape[:4])
        y = torch.empty((*shape, 4), dtype=torch.uint8)
        if y.numel():
            succeed(
                library.handle.secateur_int8_max_pool(
                    ctypes.byref(pool), words.data_ptr(), y.data_ptr(), planes, torch.get_num_threads()
                )
            )
        return x.with_words(y)


class Int8AveragePool2d(nn.Module):
    """Average pooling of images, to the levels `y`; a mean is rounded once, to even.

    >>> levels = Levels(1 / 255, 0)
    >>> x = Int8Tensor.of_images(torch.ones(1, 5, 8, 8), levels)
    >>> Int8AveragePool2d(Window((2, 2), (2, 2)), levels)(x).reals().unique()
    tensor([1.])
    """

    def __init__(self, window: Window, y: Levels, count_padding: bool = True) -> None:
        super().__init__()
        _check(window)
        self.window, self.y, self.count_padding = window, y, count_padding

    def forward(self, x: Int8Tensor) -> Int8Tensor:
        """Pool."""
        window, library = self.window, kernels_for(_images(x).words)
        if library is None:
            return Int8Tensor(words_of(self._dense(x), True), x.channels, self.y, images=True)
        words = checked_words(x.words, "input")
        pool, shape, planes = pool_form(window, words.shape[:4])
        average = average_form(x.levels, self.y, self.count_padding)
        y = torch.empty((*shape, 4), dtype=torch.uint8)
        if y.numel():
            library.handle.secateur_int8_average_pool(
                ctypes.byref(pool), ctypes.byref(average), words.data_ptr(), y.data_ptr(), planes,
                torch.get_num_threads(),
            )  # fmt: skip
        return Int8Tensor(y, x.channels, self.y, images=True)

    def _dense(self, x: Int8Tensor) -> Tensor:
        """Return levels, uint8."""
        window, y = self.window, self.y
        padding = (window.padding[0], window.padding[2])
        area = window.kernel[0] * window.kernel[1]

        def sums(t: Tensor) -> Tensor:
            return F.avg_pool2d(t.double(), window.kernel, window.stride, padding, divisor_override=1).round()

        whole = channels_of(x.words, True).double() - x.levels.zero
        count = (
            torch.tensor(float(area)) if self.count_padding else sums(torch.ones_like(whole[:1, :1])).float()
        )
        multiplier = torch.tensor(x.levels.scale / y.scale, dtype=torch.float32) / count
        means = (sums(whole).float() * multiplier).clamp(-y.zero, y.most - y.zero)
        return (means.round() + y.zero).to(torch.uint8)


def average_form(x: Levels, y: Levels, count_padding: bool) -> Average:
    """Return the C structure for levels in and out."""
    return Average(x.scale / y.scale, x.zero, y.zero, y.most, count_padding)


def global_average(x: Int8Tensor, y: Levels) -> Int8Tensor:
    """Return the mean over all pixels of each channel, as images of one pixel."""
    return Int8AveragePool2d(whole_window(x), y).forward(x)


def whole_window(x: Int8Tensor) -> Window:
    """Return the window that reads all pixels of an image."""
    height, width = _images(x).shape[2:]
    return Window((height, width), (height, width))


def _images(x: Int8Tensor) -> Int8Tensor:
    if not x.images:
        raise KernelError(f"Pooling takes images; these are features of shape {x.shape}.")
    return x


def _check(window: Window) -> None:
    top, bottom, left, right = window.padding
    half = (window.kernel[0] // 2, window.kernel[1] // 2)
    if (top, left) != (bottom, right) or top > half[0] or left > half[1] or window.dilation != (1, 1):
        raise KernelError(
            "Pooling takes the same padding on both sides, of at most half of the kernel, and no dilation; not "
            f"{window}."
        )
