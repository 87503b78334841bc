"""Between floats and words, and from levels to other levels: quantise, dequantise, requantise, add, concatenate."""

from __future__ import annotations

import torch
from torch import Tensor

from .levels import Int8Tensor, Levels, words_of

__all__ = ["quantise_words", "real_words"]


def quantise_words(x: Tensor, levels: Levels, images: bool) -> Tensor:
    """Return the words of reals; see `Levels.of`."""
    return words_of(levels.of(x), images)


def real_words(x: Int8Tensor) -> Tensor:
    """Return the reals, float32, of words."""
    return x.levels.real(x.bytes())
