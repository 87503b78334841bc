"""Between floats and words, and from levels to other levels: quantise, requantise, add, concatenate.

What is traced, and machines without kernels, take the same steps in torch.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.ground.errors import KernelError

from ..library import Library, Sum
from ..ops import found_library
from ..packing import Activation
from .levels import Int8Tensor, Levels, channels_of, words_of
from .run import checked_words
from .tables import table_of

__all__ = [
    "added",
    "concatenated",
    "kernels_for",
    "quantised_features",
    "quantised_images",
    "reals",
    "requantised",
    "sum_form",
]

BITS = 22  # most bits behind the point of a factor


def kernels_for(*tensors: Tensor) -> Library | None:
    """Return the kernels if there are any and these are tensors with numbers on the CPU that nobody traces."""
    direct = all(type(t) is Tensor and t.device.type == "cpu" for t in tensors)
    return found_library().library if direct and not torch.compiler.is_compiling() else None


def quantised_images(x: Tensor, levels: Levels) -> Int8Tensor:
    """Return the levels of reals (images, channels, height, width); see `Levels.of`.

    Raises:
        KernelError: another shape.
    """
    if x.dim() != 4:
        raise KernelError(f"Images are (images, channels, height, width), not {tuple(x.shape)}.")
    n, channels, height, width = x.shape
    words = _quantised(x, levels, (n, -(-channels // 4), height, width, 4), n, height * width)
    return Int8Tensor(words_of(levels.of(x), True) if words is None else words, channels, levels, images=True)


def quantised_features(x: Tensor, levels: Levels) -> Int8Tensor:
    """Return the levels of reals (..., features); see `Levels.of`."""
    channels = x.shape[-1]
    words = _quantised(x, levels, (*x.shape[:-1], -(-channels // 4), 4), math.prod(x.shape[:-1]), 0)
    return Int8Tensor(
        words_of(levels.of(x), False) if words is None else words, channels, levels, images=False
    )


def _quantised(x: Tensor, levels: Levels, shape: tuple[int, ...], count: int, pixels: int) -> Tensor | None:
    library = kernels_for(x)
    if library is None or x.dtype != torch.float32 or not x.numel():
        return None
    x, words = x.detach().contiguous(), torch.empty(shape, dtype=torch.uint8)
    library.handle.secateur_int8_quantise(
        x.data_ptr(), words.data_ptr(), count, x.shape[1 if pixels else -1], pixels, 1 / levels.scale, levels.zero,
        levels.most, torch.get_num_threads(),
    )  # fmt: skip
    return words


def reals(x: Int8Tensor) -> Tensor:
    """Return the reals, float32 (images, channels, height, width) or (..., features)."""
    library, levels = kernels_for(x.words), x.levels
    if library is None or not x.words.numel():
        return levels.real(x.bytes())
    words, y = checked_words(x.words, "tensor"), torch.empty(x.shape)
    count = x.shape[0] if x.images else math.prod(x.shape[:-1])
    pixels = math.prod(x.shape[2:]) if x.images else 0
    library.handle.secateur_int8_reals(
        words.data_ptr(),
        y.data_ptr(),
        count,
        x.channels,
        pixels,
        levels.scale,
        levels.zero,
        torch.get_num_threads(),
    )
    return y


def requantised(x: Int8Tensor, levels: Levels, activation: Activation = Activation.NONE) -> Int8Tensor:
    """Return a tensor in other levels, with an activation in between: each level goes through a table.

    >>> x = quantised_features(torch.tensor([[-1.0, 2.0]]), Levels(0.1, 128))
    >>> requantised(x, Levels(0.05, 0), Activation.RELU).reals()
    tensor([[0., 2.]])
    """
    if levels == x.levels and activation is Activation.NONE:
        return x
    table, library = table_of(x.levels, levels, activation), kernels_for(x.words)
    if library is None:
        words = table[x.words.long()]
    else:
        given = checked_words(x.words, "tensor")
        words = torch.empty_like(given)
        library.handle.secateur_int8_table(
            table.data_ptr(), given.data_ptr(), words.data_ptr(), given.numel() // 4
        )
    return Int8Tensor(words, x.channels, levels, x.images)


def added(
    x: Int8Tensor, z: Int8Tensor, levels: Levels, activation: Activation = Activation.NONE
) -> Int8Tensor:
    """Return a sum in given levels; the activation is NONE, RELU or RELU6.

    Factors of the levels are rounded to at most 22 bits behind the point, halves go up.

    Raises:
        KernelError: tensors of two shapes, an activation that is no clamp, or levels too fine for these terms.
    """
    if x.shape != z.shape or x.images != z.images:
        raise KernelError(f"Tensors of shapes {x.shape} and {z.shape} cannot be added.")
    sum_ = sum_form(x.levels, z.levels, levels, activation)
    library = kernels_for(x.words, z.words)
    if library is None:
        total = x.words.int() * sum_.a + z.words.int() * sum_.b + sum_.constant
        words = (total >> sum_.shift).clamp(sum_.low, sum_.high).to(torch.uint8)
    else:
        given, other = checked_words(x.words, "tensor"), checked_words(z.words, "tensor")
        words = torch.empty_like(given)
        library.handle.secateur_int8_add(
            ctypes.byref(sum_), given.data_ptr(), other.data_ptr(), words.data_ptr(), given.numel()
        )
    return Int8Tensor(words, x.channels, levels, x.images)


def sum_form(x: Levels, z: Levels, y: Levels, activation: Activation) -> Sum:
    """Return the C structure for the levels of two terms and their sum; see `added`."""
    low, high = 0, y.most
    if activation is Activation.RELU or activation is Activation.RELU6:
        low = y.zero
    elif activation is not Activation.NONE:
        raise KernelError(
            f"A sum is followed by a clamp, not by {activation.name}. Remedy: requantised(...)."
        )
    if activation is Activation.RELU6:
        high = min(high, y.zero + round(6.0 / y.scale))
    ratios = (x.scale / y.scale, z.scale / y.scale)
    largest = 2 * 255 * sum(ratios) + 256  # terms, their zero points, the output's
    shift = min(BITS, 30 - math.ceil(math.log2(largest)))
    if shift < 0:
        raise KernelError(f"Levels {y} are too fine for a sum of {x} and {z}. Remedy: a larger scale.")
    a, b = (round(r * (1 << shift)) for r in ratios)
    constant = (y.zero << shift) + ((1 << shift) >> 1) - a * x.zero - b * z.zero
    return Sum(a, b, constant, shift, low, high)


def concatenated(parts: Sequence[Int8Tensor], levels: Levels) -> Int8Tensor:
    """Return the channels of tensors one behind the other, in given levels.

    Words are copied where all parts but the last have a multiple of four channels; else they are made anew.

    Raises:
        KernelError: nothing to concatenate, or images and features.
    """
    if not parts or any(part.images != parts[0].images for part in parts):
        raise KernelError("Concatenation needs tensors that are all images, or all features.")
    images = parts[0].images
    same = [requantised(part, levels) for part in parts]
    channels = sum(part.channels for part in parts)
    if all(part.channels % 4 == 0 for part in parts[:-1]):
        words = torch.cat([part.words for part in same], 1 if images else -2)
    else:
        loose = [channels_of(part.words, images) for part in same]
        axis = 1 if images else -1
        narrow = [t.narrow(axis, 0, part.channels) for t, part in zip(loose, same)]
        words = words_of(torch.cat(narrow, axis), images)
    return Int8Tensor(words, channels, levels, images)
