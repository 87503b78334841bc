"""Levels: reals as bytes, and tensors of them in the order that the int8 kernels read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.ground.errors import KernelError

__all__ = ["Int8Tensor", "Levels", "channels_of", "words_of"]


@dataclass(frozen=True)
class Levels:
    """Bytes that stand for reals: ``real = scale * (level - zero)``, with levels from 0 to `most`.

    With 127 as the largest level (7 bits) a layer that reads them takes about a third less time on processors with AVX2
    and neither VNNI nor AVX-512. With VNNI nothing is gained by it.

    Raises:
        KernelError: a scale that is not a finite number above 0, or a zero or `most` that is no byte.

    >>> Levels(0.5, 128).reals
    (-64.0, 63.5)
    """

    scale: float
    zero: int
    most: int = 255

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise KernelError(f"Levels have a scale above 0, not {self.scale!r}.")
        if not 1 <= self.most <= 255 or not 0 <= self.zero <= self.most:
            raise KernelError(
                f"Levels go from 0 to at most 255, their zero among them; not most={self.most}, zero={self.zero}."
            )

    @property
    def reals(self) -> tuple[float, float]:
        """The smallest and the largest real."""
        return -self.zero * self.scale, (self.most - self.zero) * self.scale

    def of(self, x: Tensor) -> Tensor:
        """Return the levels, uint8, nearest to reals: what is beyond the ends is at the end, NaN is 0.

        The reciprocal of the scale is multiplied in float32 and halves go to even levels, as in torch's
        ``quantize_per_tensor``.

        >>> Levels(0.1, 10, most=127).of(torch.tensor([0.0, 0.25, -5.0, torch.inf, torch.nan]))
        tensor([ 10,  12,   0, 127,  10], dtype=torch.uint8)
        """
        scaled = x.float() * torch.tensor(1 / self.scale, dtype=torch.float32)
        scaled = torch.where(scaled.isnan(), 0.0, scaled).clamp(-self.zero, self.most - self.zero)
        return (scaled.round() + self.zero).to(torch.uint8)

    def real(self, levels: Tensor) -> Tensor:
        """Return the reals, float32, of levels."""
        return (levels.int() - self.zero).float() * torch.tensor(self.scale, dtype=torch.float32)


def words_of(levels: Tensor, images: bool) -> Tensor:
    """Return bytes (images, channels, height, width) or (..., features) with four channels together (see `Int8Tensor`).

    Channels that are missing to four are 0.
    """
    axis = levels.dim() - (3 if images else 1)
    channels = levels.shape[axis]
    pad = -channels % 4
    if pad:
        levels = F.pad(levels, (*(0, 0) * (levels.dim() - 1 - axis), 0, pad))
    words: Tensor = levels.reshape(*levels.shape[:axis], -(-channels // 4), 4, *levels.shape[axis + 1 :])
    return words.movedim(axis + 1, -1).contiguous()


def channels_of(words: Tensor, images: bool) -> Tensor:
    """Return the bytes of words, uint8, with the channels (a multiple of four) in one dimension."""
    quads = words.dim() - (4 if images else 2)
    return words.movedim(-1, quads + 1).flatten(quads, quads + 1)


@dataclass(frozen=True)
class Int8Tensor:
    """Activations as the int8 kernels read and write them: four channels of a pixel, or four features, are a word.

    ``words`` is uint8: (images, ceil(channels / 4), height, width, 4), or (..., ceil(features / 4), 4) of features.
    Bytes behind the last channel mean nothing.

    >>> x = Int8Tensor.of_images(torch.rand(1, 6, 5, 5), Levels(1 / 255, 0))
    >>> x.words.shape, x.shape, x.reals().shape
    (torch.Size([1, 2, 5, 5, 4]), (1, 6, 5, 5), torch.Size([1, 6, 5, 5]))
    """

    words: Tensor
    channels: int
    levels: Levels
    images: bool

    def __post_init__(self) -> None:
        words, axis = self.words, -4 if self.images else -2
        if (
            words.dtype != torch.uint8
            or words.dim() < -axis
            or (self.images and words.dim() != 5)
            or words.shape[-1] != 4
            or words.shape[axis] != -(-self.channels // 4)
        ):
            kind = "(images, channels / 4, height, width, 4)" if self.images else "(..., features / 4, 4)"
            raise KernelError(
                f"Words of {self.channels} channels are uint8 {kind}, not {words.dtype} {tuple(words.shape)}. "
                "Remedy: Int8Tensor.of_images or Int8Tensor.of_features."
            )

    @staticmethod
    def of_images(x: Tensor, levels: Levels) -> Int8Tensor:
        """Return the levels of reals (images, channels, height, width); see `Levels.of`."""
        from .pointwise import quantised_images

        return quantised_images(x, levels)

    @staticmethod
    def of_features(x: Tensor, levels: Levels) -> Int8Tensor:
        """Return the levels of reals (..., features); see `Levels.of`."""
        from .pointwise import quantised_features

        return quantised_features(x, levels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the reals."""
        if self.images:
            return (self.words.shape[0], self.channels, *self.words.shape[2:4])
        return (*self.words.shape[:-2], self.channels)

    def bytes(self) -> Tensor:
        """Return the levels, uint8, of the shape of the reals."""
        return channels_of(self.words, self.images).narrow(-3 if self.images else -1, 0, self.channels)

    def reals(self) -> Tensor:
        """Return the reals, float32."""
        from .pointwise import reals

        return reals(self)

    def features(self) -> Int8Tensor:
        """Return images as features, pixel by pixel of four channels: (images, channels padded to 4 * pixels).

        Of images of one pixel this is what torch's flatten gives; of others, a linear layer behind takes its inputs in
        another order: see `flat_weight`.
        """
        if not self.images:
            return self
        n, quads, height, width, _ = self.words.shape
        channels = self.channels if height * width == 1 else 4 * quads * height * width
        return Int8Tensor(
            self.words.reshape(n, quads * height * width, 4), channels, self.levels, images=False
        )

    def with_words(self, words: Tensor) -> Int8Tensor:
        """Return the same channels and levels with other words."""
        return replace(self, words=words)
