"""Streams of bytes, bits and words: stored as they are, as a zstandard frame, or, if they are all zeros, not at all."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import zstandard
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, StrictBool
from pydantic.dataclasses import dataclass

from secateur.ground.errors import ArtefactError

from .words import Words

__all__ = ["DIGEST", "MAX_BYTES", "Planes", "Reader", "Size", "Writer", "unframed"]

MAX_BYTES = 1 << 42  # of a stream, a tensor, and of all together
DIGEST = 32  # hexadecimal digits of a SHA-256
ESCAPE = 255  # a gap byte that only skips so many zeros
SHIFT = 3  # by which words are shifted, at most

Size = Annotated[int, Field(strict=True, ge=0, le=MAX_BYTES)]
Bytes = NDArray[np.uint8]
Bits = NDArray[np.bool_]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Planes:
    """Stored words: the sizes of their planes, one for each byte of ``(word - base) << shift``, the lowest first.

    With ``pairs`` words below 16 stand in pairs, in one byte: as one symbol two are coded better.
    ``base`` counts in a word's upper 16 bits. Weights have few exponents: shifted, their upper plane holds some of the
    mantissa as well, which is not uniform either, least of all where small ones were pruned.
    """

    sizes: Annotated[tuple[Size, ...], Field(min_length=1, max_length=8)]
    base: Annotated[int, Field(strict=True, ge=0, lt=1 << 16)] = 0
    shift: Annotated[int, Field(strict=True, ge=0, le=SHIFT)] = 0
    pairs: StrictBool = False


class Writer:
    """Collects streams, each in the smallest of its forms; ``level`` is zstandard's. Not for two threads at once."""

    def __init__(self, level: int = 1) -> None:
        # Weights repeat by chance: to write that down costs more than it saves, so the first one hardly looks for it.
        noise = zstandard.ZstdCompressionParameters.from_level(1, min_match=7, hash_log=6, window_log=17)
        self._quick: Any = zstandard.ZstdCompressor(compression_params=noise)
        self._thorough: Any = zstandard.ZstdCompressor(level=level)
        self._chunks: list[bytes | memoryview] = []

    def take(self) -> tuple[str, list[bytes | memoryview]]:
        """Return the digest of all streams since the last time, and the streams."""
        state, chunks, self._chunks = hashlib.sha256(), self._chunks, []
        for chunk in chunks:
            state.update(chunk)
        return state.hexdigest()[:DIGEST], chunks

    def bits(self, bits: Bits) -> int:
        """Write bits, as they are or as the gaps between ones; return how many bytes are stored."""
        packed = np.packbits(bits, bitorder="little")
        if 0 < 4 * np.count_nonzero(bits) <= bits.size:
            gaps = _gaps(bits)
            least = min(len(packed), len(self._frame(packed, True)))
            # A reader tells gaps by the size of a frame's content: it must be another one.
            if len(gaps) != len(packed) and len(self._frame(gaps, True)) < least:
                return self._add(self._frame(gaps))
        return self._add(self._stored(packed))

    def words(self, words: Words, noisy: bool) -> Planes:
        """Write words plane by plane; ``noisy`` ones are values of floating point."""
        width, base, shift, pairs = words.itemsize, 0, 0, False
        if noisy and width > 1 and words.size:
            unit = 8 * width - 16
            base = int(words.min()) >> unit
            shift = min(SHIFT, 8 * width - (int(words.max()) - (base << unit)).bit_length())
            words = words - words.dtype.type(base << unit)
            words <<= words.dtype.type(shift)
        elif width == 1 and words.size > 1 and words.max() < 16:
            even, pairs = np.append(words, np.zeros(words.size % 2, words.dtype)), True
            words = even[0::2] | even[1::2] << even.dtype.type(4)
        planes = np.ascontiguousarray(words.reshape(-1, 1).view(np.uint8).T)
        return Planes(tuple(self._add(self._stored(plane, noisy)) for plane in planes), base, shift, pairs)

    def _add(self, stored: bytes | memoryview) -> int:
        self._chunks.append(stored)
        return len(stored)

    def _stored(self, data: Bytes, noisy: bool = False) -> bytes | memoryview:
        frame = self._frame(data, noisy)
        if len(frame) < 32 + len(data) // 1024 and not data.any():
            return b""
        return frame if len(frame) < len(data) else data.data

    def _frame(self, data: Bytes, noisy: bool = False) -> bytes:
        frame: bytes = self._quick.compress(data.data)
        return frame if noisy else min(frame, self._thorough.compress(data.data), key=len)


class Reader:
    """Takes streams one by one from the bytes of a record; any that does not hold what is asked for is an error."""

    def __init__(self, stored: memoryview, decompressor: zstandard.ZstdDecompressor) -> None:
        self._stored, self._decompressor, self._at = stored, decompressor, 0

    def bits(self, size: int, count: int) -> Bits:
        """Return ``count`` bits, which are stored in ``size`` bytes."""
        plain = -(-count // 8)
        # Of gaps there are at most a quarter: their places take eight bytes each.
        content = self._content(size, plain, 0, max(plain, count // 4))
        if len(content) != plain:
            return _from_gaps(content, count)
        return np.unpackbits(content, count=count, bitorder="little").view(np.bool_)

    def words(self, planes: Planes, count: int, dtype: np.dtype[Any]) -> Words:
        """Return ``count`` words."""
        width = dtype.itemsize
        if planes.pairs:
            two = self.words(replace(planes, pairs=False), -(-count // 2), dtype)
            return np.stack([two & dtype.type(15), two >> dtype.type(4)], axis=1).reshape(-1)[:count]
        if len(planes.sizes) != width:
            raise ArtefactError(f"words of {width} bytes cannot come from {len(planes.sizes)} streams")
        data = np.empty((count, width), np.uint8)
        for i, size in enumerate(planes.sizes):
            data[:, i] = self._content(size, count, count, count)
        words: Words = data.reshape(-1).view(dtype)
        if planes.shift:
            words >>= dtype.type(planes.shift)
        if planes.base and width > 1:
            words += dtype.type(planes.base << 8 * width - 16)
        return words

    def skip(self, size: int) -> None:
        """Leave a stream out."""
        self._at += size

    def finish(self) -> None:
        """See that every byte was taken."""
        if self._at != len(self._stored):
            raise ArtefactError("a stream does not belong to its record")

    def _content(self, size: int, plain: int, least: int, most: int) -> Bytes:
        stored = self._stored[self._at : self._at + size]
        self._at += size
        if not size:
            return np.zeros(plain, np.uint8)
        content = stored if size == plain else unframed(stored, least, most, self._decompressor)
        return np.frombuffer(content, np.uint8)


def unframed(stored: memoryview, least: int, most: int, decompressor: zstandard.ZstdDecompressor) -> bytes:
    """Return the content of one zstandard frame, ``least`` to ``most`` bytes, as checked before they are allocated."""
    try:
        stated: Any = zstandard.get_frame_parameters(stored)
        fits = least <= stated.content_size <= most and stated.window_size <= max(most, 1 << 10)
        if not fits or stated.dict_id:
            raise ArtefactError(f"a zstandard frame has not {least} to {most} bytes, or asks for more")
        content: bytes = decompressor.decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ArtefactError(f"a zstandard frame cannot be read: {error}") from None
    return content


def _gaps(bits: Bits) -> Bytes:
    """Return the number of zeros before each one; 255 skips 255 zeros and goes on."""
    gap = np.diff(np.flatnonzero(bits), prepend=-1) - 1
    if gap.max() < ESCAPE:
        return gap.astype(np.uint8)
    length = gap // ESCAPE + 1
    data = np.full(int(length.sum()), ESCAPE, np.uint8)
    data[np.cumsum(length) - 1] = gap % ESCAPE
    return data


def _from_gaps(gaps: Bytes, count: int) -> Bits:
    one = gaps != ESCAPE
    ends = np.cumsum(gaps + one.astype(np.int64))[one] - 1
    if len(ends) and ends[-1] >= count:
        raise ArtefactError(f"a stream of gaps leads beyond its {count} bits")
    bits = np.zeros(count, np.bool_)
    bits[ends] = True
    return bits
