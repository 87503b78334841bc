"""Tensors as unsigned integers, and back: what the coders work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.ground.errors import ArtefactError

__all__ = ["KINDS", "Kind", "from_words", "kind_of", "to_words"]

Words = NDArray[Any]


@dataclass(frozen=True)
class Kind:
    """How the elements of a data type are coded."""

    name: str  # as safetensors calls it
    dtype: torch.dtype
    width: int  # bytes of a word
    signed: bool = False  # a float whose first bit is its sign: words are rotated, so that it is the last
    words: int = 1  # of an element

    @property
    def word_type(self) -> np.dtype[Any]:
        """Unsigned integers of the width, little-endian."""
        return np.dtype(f"<u{self.width}")


def _kinds() -> Mapping[str, Kind]:
    kinds = [
        Kind("BOOL", torch.bool, 1),
        Kind("U8", torch.uint8, 1),
        Kind("I8", torch.int8, 1),
        Kind("U16", torch.uint16, 2),
        Kind("I16", torch.int16, 2),
        Kind("U32", torch.uint32, 4),
        Kind("I32", torch.int32, 4),
        Kind("U64", torch.uint64, 8),
        Kind("I64", torch.int64, 8),
        Kind("F16", torch.float16, 2, signed=True),
        Kind("BF16", torch.bfloat16, 2, signed=True),
        Kind("F32", torch.float32, 4, signed=True),
        Kind("F64", torch.float64, 8, signed=True),
        Kind("F8_E4M3", torch.float8_e4m3fn, 1, signed=True),
        Kind("F8_E5M2", torch.float8_e5m2, 1, signed=True),
        # Without a negative zero, or without a sign: plain words.
        Kind("F8_E4M3FNUZ", torch.float8_e4m3fnuz, 1),
        Kind("F8_E5M2FNUZ", torch.float8_e5m2fnuz, 1),
        Kind("F8_E8M0", torch.float8_e8m0fnu, 1),
        Kind("C32", torch.complex32, 2, words=2),
        Kind("C64", torch.complex64, 4, words=2),
        Kind("C128", torch.complex128, 8, words=2),
    ]
    return {kind.name: kind for kind in kinds}


KINDS = _kinds()
_BY_DTYPE = {kind.dtype: kind for kind in KINDS.values()}


def kind_of(tensor: Tensor, name: str) -> Kind:
    """Return how a tensor's elements are coded.

    Raises:
        ArtefactError: it is not an ordinary tensor with values, or its data type is not known.
    """
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise ArtefactError(f"{name} is not an ordinary tensor with values, and cannot be packed")
    try:
        return _BY_DTYPE[tensor.dtype]
    except KeyError:
        raise ArtefactError(
            f"{name} has the data type {tensor.dtype}, which cannot be packed; known are {', '.join(KINDS)}"
        ) from None


def to_words(tensor: Tensor, kind: Kind) -> Words:
    """Return the bits of a tensor in its shape, plus a last dimension where an element has several words.

    >>> to_words(torch.tensor([1.0, -1.0]), KINDS["F32"])
    array([2130706432, 2130706433], dtype=uint32)
    """
    shape = (*tensor.shape, *((kind.words,) if kind.words > 1 else ()))
    flat = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous().reshape(-1)
    words = flat.view(torch.uint8).numpy().view(kind.word_type).reshape(shape)
    return rotate(words, 1) if kind.signed else words


def from_words(words: Words, kind: Kind, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor of which `to_words` made these words."""
    if kind.signed:
        words = rotate(words, -1)
    # A copy where the words are a view of the file, which cannot be written to.
    flat = np.require(words.reshape(-1), requirements=["C", "W"])
    return torch.from_numpy(flat.view(np.uint8)).view(kind.dtype).reshape(shape)


def rotate(words: Words, by: int) -> Words:
    """Rotate the bits of each word to the left by 1 or -1."""
    bits = 8 * words.itemsize
    left, right = words.dtype.type(by % bits), words.dtype.type(-by % bits)
    rotated: Words = words << left
    rotated |= words >> right
    return rotated
