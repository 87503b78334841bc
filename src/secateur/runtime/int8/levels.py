"""Levels: reals as bytes, and tensors of them in the order that the int8 kernels read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.ground.errors import KernelError
from secateur.ground.levels import Levels

__all__ = ["Int8Tensor", "Levels", "channels_of", "words_of"]


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
