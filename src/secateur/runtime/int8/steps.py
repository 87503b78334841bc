"""Steps that are no layer of weights, as modules: a sum, other levels, the mean of an image, images as features."""

from __future__ import annotations

from torch import nn

from ..packing import Activation
from .levels import Int8Tensor, Levels
from .pointwise import added, requantised
from .pool import global_average

__all__ = ["Int8Add", "Int8Features", "Int8GlobalAverage", "Int8Requantise"]


class Int8Add(nn.Module):
    """A sum of two tensors, to the levels `y`; see `added`."""

    def __init__(self, y: Levels, activation: Activation = Activation.NONE) -> None:
        super().__init__()
        self.y, self.activation = y, activation

    def forward(self, x: Int8Tensor, z: Int8Tensor) -> Int8Tensor:
        """Add."""
        return added(x, z, self.y, self.activation)


class Int8Requantise(nn.Module):
    """A tensor in the levels `y`, with an activation in between; see `requantised`."""

    def __init__(self, y: Levels, activation: Activation = Activation.NONE) -> None:
        super().__init__()
        self.y, self.activation = y, activation

    def forward(self, x: Int8Tensor) -> Int8Tensor:
        """Look each level up."""
        return requantised(x, self.y, self.activation)


class Int8GlobalAverage(nn.Module):
    """The mean over all pixels of each channel, to the levels `y`, as images of one pixel."""

    def __init__(self, y: Levels) -> None:
        super().__init__()
        self.y = y

    def forward(self, x: Int8Tensor) -> Int8Tensor:
        """Average."""
        return global_average(x, self.y)


class Int8Features(nn.Module):
    """Images as features; see `Int8Tensor.features`."""

    def forward(self, x: Int8Tensor) -> Int8Tensor:
        """Return the same words."""
        return x.features()
