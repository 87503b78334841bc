"""One array as streams: the states of its blocks, the values of those kept, magnitudes and signs of those unified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.ground.errors import ArtefactError

from .blocks import Blocks
from .coders import Coder, Effort, Stored, decode_bits, decode_bytes, encode_bits, encode_bytes

__all__ = ["Part", "Role", "Stream", "decode", "decode_nonzero", "decode_values", "encode", "encode_values"]

Words = NDArray[Any]
PART = 8  # bytes that one more stream costs in the header, about


class Role(StrEnum):
    """What a stream holds."""

    NONZERO = "nonzero"  # a bit a block: not all zero
    UNIFIED = "unified"  # a bit a nonzero block: one magnitude
    NEGATIVE = "negative"  # a bit an element of a zero block: -0.0
    SIGNS = "signs"  # a bit an element of a unified block
    MAGNITUDES = "magnitudes"  # a word a unified block
    VALUES = "values"  # a word an element of a block that is neither zero nor unified
    SCALES = "scales"  # of quantised values, 32-bit floats


@dataclass(frozen=True)
class Part:
    """A stream as the header lists it."""

    role: Role
    coder: Coder
    size: int  # stored bytes


@dataclass(frozen=True)
class Stream:
    """A stream with its content."""

    role: Role
    coder: Coder
    data: memoryview

    @property
    def part(self) -> Part:
        """What the header says of it."""
        return Part(self.role, self.coder, len(self.data))


def encode(words: Words, layout: Blocks | None, signed: bool, effort: Effort) -> list[Stream]:
    """Return the streams of an array under a layout; None is dense.

    Where values are ``signed`` the last bit of a word is the sign of the others.
    """
    if layout is None:
        return encode_values(Role.VALUES, words.reshape(-1), effort, words.size)
    blocks, inside = layout.cut(words), layout.inside(words.shape)
    magnitudes = blocks >> blocks.dtype.type(1) if signed else blocks
    nonzero = np.bitwise_or.reduce(magnitudes, axis=0) != 0
    streams: list[Stream] = []

    def bits(role: Role, values: NDArray[np.bool_]) -> None:
        streams.append(_stream(role, encode_bits(values, effort, words.size)))

    if not nonzero.all():
        bits(Role.NONZERO, nonzero)
        if signed and (blocks == 1).any():  # -0.0, which is rare
            bits(Role.NEGATIVE, (_Places(~nonzero, inside).of(blocks) & 1) != 0)
    kept = nonzero
    if signed and layout.size > 1:
        unified = _unified(magnitudes, nonzero, inside)
        if _pays(unified, nonzero, layout.size, words.itemsize):
            bits(Role.UNIFIED, unified[nonzero])
            bits(Role.SIGNS, (_Places(unified, inside).of(blocks) & 1) != 0)
            streams += encode_values(Role.MAGNITUDES, magnitudes[0, unified], effort, words.size)
            kept = nonzero & ~unified
    return streams + encode_values(Role.VALUES, _Places(kept, inside).of(blocks), effort, words.size)


def decode(
    streams: Sequence[Stream], layout: Blocks | None, shape: Sequence[int], dtype: np.dtype[Any], signed: bool
) -> Words:
    """Return the array that `encode` made these streams of.

    Raises:
        ArtefactError: the streams do not fit one another, the layout or the shape.
    """
    left = list(streams)
    if layout is None:
        array = decode_values(_take(left, Role.VALUES), prod(shape), dtype).reshape(shape)
        _finish(left)
        return array
    count, inside = prod(layout.grid(shape)), layout.inside(shape)
    blocks = np.zeros((layout.size, count), dtype)
    nonzero = np.ones(count, np.bool_)
    if zeros := _take_one(left, Role.NONZERO):
        nonzero = _bits(zeros, count)
        if negative := _take_one(left, Role.NEGATIVE):
            places = _Places(~nonzero, inside)
            places.put(blocks, _bits(negative, places.count(layout.size)))
    _fill(blocks, nonzero, inside, left, signed)
    return layout.join(blocks, shape)


def decode_nonzero(
    streams: Sequence[Stream], layout: Blocks, shape: Sequence[int], dtype: np.dtype[Any], signed: bool
) -> tuple[NDArray[np.int64], Words]:
    """Return the numbers of the blocks that are not zero, and (positions, blocks) of their words; no zeros are made.

    Raises:
        ArtefactError: the streams do not fit one another, the layout or the shape.
    """
    left, count = list(streams), prod(layout.grid(shape))
    zeros = _take_one(left, Role.NONZERO)
    chosen = np.arange(count) if zeros is None else np.flatnonzero(_bits(zeros, count))
    _take_one(left, Role.NEGATIVE)  # the signs of zeros
    inside = layout.inside(shape)
    blocks = np.zeros((layout.size, len(chosen)), dtype)
    _fill(blocks, np.ones(len(chosen), np.bool_), None if inside is None else inside[:, chosen], left, signed)
    return chosen, blocks


def _fill(
    blocks: Words,
    nonzero: NDArray[np.bool_],
    inside: NDArray[np.bool_] | None,
    left: list[Stream],
    signed: bool,
) -> None:
    """Set the words of those blocks that are not zero."""
    dtype, size = blocks.dtype, len(blocks)
    kept = nonzero
    if states := _take_one(left, Role.UNIFIED):
        signs = _take_one(left, Role.SIGNS)
        if signs is None or not signed:
            raise ArtefactError("a stream of unified has no signs beside it, or values without signs")
        unified = np.zeros(len(nonzero), np.bool_)
        unified[nonzero] = _bits(states, int(np.count_nonzero(nonzero)))
        kept = nonzero & ~unified
        places = _Places(unified, inside)
        places.put(blocks, _bits(signs, places.count(size)))
        number = int(np.count_nonzero(unified))
        blocks[:, unified] |= decode_values(_take(left, Role.MAGNITUDES), number, dtype) << dtype.type(1)
    places = _Places(kept, inside)
    places.put(blocks, decode_values(_take(left, Role.VALUES), places.count(size), dtype))
    _finish(left)


def encode_values(role: Role, words: Words, effort: Effort, elements: int) -> list[Stream]:
    """Return words byte plane by byte plane, the lowest first, or, where that is smaller, as they are."""
    width = words.itemsize
    data = np.ascontiguousarray(words).view(np.uint8).reshape(-1, width)
    planes = [
        _stream(role, encode_bytes(np.ascontiguousarray(data[:, i]), effort, elements)) for i in range(width)
    ]
    if width == 1 or data.size > 1 << 12:
        return planes
    plain = _stream(role, encode_bytes(data.reshape(-1), effort, elements))
    return [plain] if len(plain.data) <= sum(len(p.data) for p in planes) + PART * (width - 1) else planes


def decode_values(streams: Sequence[Stream], count: int, dtype: np.dtype[Any]) -> Words:
    """Return ``count`` words.

    Raises:
        ArtefactError: there is neither one stream nor one a byte, or one of them has another length.
    """
    width = dtype.itemsize
    if len(streams) == 1:
        (stream,) = streams
        return decode_bytes(stream.coder, stream.data, count * width).view(dtype)
    if len(streams) != width:
        raise ArtefactError(f"words of {width} bytes cannot come from {len(streams)} streams")
    data = np.empty((count, width), np.uint8)
    for i, stream in enumerate(streams):
        data[:, i] = decode_bytes(stream.coder, stream.data, count)
    return data.reshape(-1).view(dtype)


def _stream(role: Role, coded: Stored) -> Stream:
    return Stream(role, coded[0], memoryview(coded[1]))


def _unified(
    magnitudes: Words, nonzero: NDArray[np.bool_], inside: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    # In a partial block of one element there is nothing to unify.
    unified = nonzero.copy() if inside is None else nonzero & inside[1:].any(axis=0)
    for i in range(1, len(magnitudes)):  # over the positions in a block, all blocks at once
        same = magnitudes[i] == magnitudes[0]
        unified &= same if inside is None else same | ~inside[i]
    return unified


def _pays(unified: NDArray[np.bool_], nonzero: NDArray[np.bool_], size: int, width: int) -> bool:
    """Whether unified blocks save more than the states cost."""
    number = int(np.count_nonzero(unified))
    others = int(np.count_nonzero(nonzero)) - number
    saved = number * (size - 1) * (8 * width - 6)
    return saved > 2 * min(number, others) + 8 * 3 * PART


@dataclass(frozen=True)
class _Places:
    """The elements of some blocks, position by position, without what lies beyond the edges."""

    chosen: NDArray[np.bool_]
    inside: NDArray[np.bool_] | None

    def of(self, blocks: Words) -> Words:
        """Return the elements."""
        if self.inside is not None:
            rows = zip(blocks, self.inside, strict=True)
            return np.concatenate([row[self.chosen & inside] for row, inside in rows])
        return blocks.reshape(-1) if self.chosen.all() else blocks.compress(self.chosen, axis=1).reshape(-1)

    def count(self, size: int) -> int:
        """How many there are, in blocks of this size."""
        if self.inside is not None:
            return int(np.count_nonzero(self.inside & self.chosen))
        return size * int(np.count_nonzero(self.chosen))

    def put(self, blocks: Words, values: Words) -> None:
        """Set the elements."""
        if self.inside is not None:
            blocks[self.inside & self.chosen] = values
        else:
            blocks[:, np.flatnonzero(self.chosen)] = values.reshape(len(blocks), -1)


def _bits(stream: Stream, count: int) -> NDArray[np.bool_]:
    return decode_bits(stream.coder, stream.data, count)


def _take(streams: list[Stream], role: Role) -> list[Stream]:
    taken = [stream for stream in streams if stream.role is role]
    streams[:] = [stream for stream in streams if stream.role is not role]
    return taken


def _take_one(streams: list[Stream], role: Role) -> Stream | None:
    taken = _take(streams, role)
    if len(taken) > 1:
        raise ArtefactError(f"there are {len(taken)} streams of {role}")
    return taken[0] if taken else None


def _finish(streams: Sequence[Stream]) -> None:
    for stream in streams:
        raise ArtefactError(f"a stream of {stream.role} does not belong here")
