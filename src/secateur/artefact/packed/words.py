"""Tensors as unsigned integers, and back: what the streams hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.ground.errors import ArtefactError

__all__ = ["KINDS", "TEXT", "Kind", "Words", "kind_of", "rotate", "to_tensor", "to_words"]

Words = NDArray[Any]  # unsigned integers, little-endian


@dataclass(frozen=True)
class Kind:
    """A data type, by its name in safetensors; words of ``signed`` ones are rotated, so that the sign is last."""

    name: str
    dtype: torch.dtype
    signed: bool = False

    @property
    def words(self) -> int:
        """How many an element has."""
        return 2 if self.dtype.is_complex else 1

    @property
    def width(self) -> int:
        """Bytes of a word."""
        return self.dtype.itemsize // self.words

    def word_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a tensor's words: one more dimension where an element has two."""
        return (*shape, self.words) if self.words > 1 else shape


_PLAIN = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16, "I16": torch.int16,
    "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64, "I64": torch.int64,
    "C32": torch.complex32, "C64": torch.complex64, "C128": torch.complex128,
    # Without a negative zero, or without a sign:
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip
_SIGNED = {
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
TEXT = Kind("TEXT", torch.uint8)  # a text in UTF-8
KINDS = {name: Kind(name, dtype, name in _SIGNED) for name, dtype in (_PLAIN | _SIGNED).items()}
_BY_DTYPE = {kind.dtype: kind for kind in KINDS.values()}
KINDS["TEXT"] = TEXT


def kind_of(tensor: Tensor, name: str) -> Kind:
    """Return the kind of a tensor.

    Raises:
        ArtefactError: it is not an ordinary tensor with values, or its data type is not known.
    """
    if not isinstance(tensor, Tensor):
        raise ArtefactError(f"{name!r:.60} is a {type(tensor).__name__}; only tensors can be packed")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise ArtefactError(f"{name!r:.60} is not an ordinary tensor with values, and cannot be packed")
    if tensor.dtype not in _BY_DTYPE:
        raise ArtefactError(f"{name!r:.60} is {tensor.dtype}; known types are {', '.join(KINDS)}")
    return _BY_DTYPE[tensor.dtype]


def to_words(tensor: Tensor, kind: Kind) -> Words:
    """Return the bits of a tensor in its shape, plus a last dimension where an element has two words.

    >>> to_words(torch.tensor([1.0, -1.0]), KINDS["F32"])
    array([2130706432, 2130706433], dtype=uint32)
    """
    flat = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous().reshape(-1)
    words = (
        flat.view(torch.uint8).numpy().view(f"<u{kind.width}").reshape(kind.word_shape(tuple(tensor.shape)))
    )
    return rotate(words, 1) if kind.signed else words


def to_tensor(bits: Words, kind: Kind, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor that has these bits, which are not rotated, and this memory."""
    return torch.from_numpy(bits.reshape(-1).view(np.uint8)).view(kind.dtype).reshape(shape)


def rotate(words: Words, by: int) -> Words:
    """Rotate the bits of each word to the left by 1 or -1."""
    bits = 8 * words.itemsize
    rotated: Words = words << words.dtype.type(by % bits)
    rotated |= words >> words.dtype.type(-by % bits)
    return rotated
