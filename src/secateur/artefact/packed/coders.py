"""The coders of bytes and of bits: as they are, zstandard, range coding, gaps. Each stream takes the smallest."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from secateur.ground.errors import ArtefactError

from . import range_coding

__all__ = [
    "SMALLEST",
    "Coder",
    "Effort",
    "compress",
    "decode_bits",
    "decode_bytes",
    "decompress",
    "encode_bits",
    "encode_bytes",
]

Bytes = NDArray[np.uint8]
Bits = NDArray[np.bool_]
Stored = tuple["Coder", bytes | memoryview]
NOISE = 64  # bytes: what zstandard leaves as it is, is noise if it is longer
ESCAPE = 255  # a gap byte that only skips so many zeros


class Coder(StrEnum):
    """How a stream is stored."""

    RAW = "raw"
    ZSTD = "zstd"
    RANGE = "range"
    GAPS = "gaps"  # of bits only: zstandard of the number of zeros before each one


class _Local(threading.local):
    """Compressors by level: one must not be used by two threads at once."""

    def __init__(self) -> None:
        self.compressors: dict[int, Any] = {}


_LOCAL = _Local()


@dataclass(frozen=True)
class Effort:
    """What the encoder tries.

    Range coding decodes some 50 million symbols a second, zstandard over a billion. So by default a stream is range
    coded only where it has at most ``share`` symbols for each element of its tensor.
    """

    levels: tuple[int, ...] = (1,)  # of zstandard: higher ones find chance matches in noise, and lose by them
    share: float = 0.1
    gain: float = 0.97  # range coding of bytes must reach this part of the next best
    text: int = 7  # zstandard's level for header and documents: 19 saves some 6 %, and takes 70 times as long
    layouts: int = 1  # block sizes that are tried, of those whose estimates are near to the best


SMALLEST = Effort((1, 6, 19), share=float("inf"), gain=1.0, text=19, layouts=2)


def encode_bytes(data: Bytes, effort: Effort, elements: int) -> Stored:
    """Return the smallest coding of a stream of bytes, contiguous, that belongs to a tensor of so many elements."""
    plain, least = data.data, len(data)
    best: Stored = (Coder.RAW, plain)
    if least <= 8:
        return best
    for level in effort.levels:
        stored = compress(plain, level)
        if len(stored) < least:
            best, least = (Coder.ZSTD, stored), len(stored)
    # Of longer noise, in which Huffman codes save nothing, a range code with its larger table does not, either.
    if len(data) <= effort.share * elements and not (least == len(data) > NOISE):
        coded = range_coding.encode_bytes(data, int(effort.gain * least))
        if coded is not None and len(coded) < least:
            best = (Coder.RANGE, coded)
    return best


def decode_bytes(coder: Coder, stored: memoryview, count: int) -> Bytes:
    """Return ``count`` bytes.

    Raises:
        ArtefactError: the stream does not hold exactly so many.
    """
    if coder is Coder.RANGE:
        return range_coding.decode_bytes(stored, count)
    if coder is Coder.GAPS:
        raise ArtefactError("bytes cannot be coded by gaps")
    data = decompress(stored, count) if coder is Coder.ZSTD else stored
    if len(data) != count:
        raise ArtefactError(f"a stream has {len(data)} bytes where {count} belong")
    return np.frombuffer(data, np.uint8)


def encode_bits(bits: Bits, effort: Effort, elements: int) -> Stored:
    """Return the smallest coding of a stream of bits."""
    packed = np.packbits(bits, bitorder="little").data
    found: list[Stored] = [(Coder.RAW, packed)]
    if len(bits) > 64:
        found += [(Coder.ZSTD, compress(packed, level)) for level in effort.levels]
        ones = int(np.count_nonzero(bits))
        if 4 * ones <= len(bits):
            gaps = _gaps(bits)
            if 4 * len(gaps) <= len(bits):
                found += [(Coder.GAPS, compress(gaps, level)) for level in effort.levels]
        if _least(found)[0] is Coder.ZSTD:  # there are patterns
            found.append((Coder.ZSTD, compress(packed, 9)))
        if 0 < ones < len(bits) <= effort.share * elements:
            found.append((Coder.RANGE, range_coding.encode_bits(bits, ones)))
    return _least(found)


def decode_bits(coder: Coder, stored: memoryview, count: int) -> Bits:
    """Return ``count`` bits.

    Raises:
        ArtefactError: the stream does not hold exactly so many.
    """
    if coder is Coder.RANGE:
        return range_coding.decode_bits(stored, count)
    if coder is Coder.GAPS:
        return _from_gaps(stored, count)
    size = -(-count // 8)
    packed = decompress(stored, size) if coder is Coder.ZSTD else stored
    if len(packed) != size:
        raise ArtefactError(f"a stream has {len(packed)} bytes where {count} bits belong")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=count, bitorder="little").view(np.bool_)


def _least(found: list[Stored]) -> Stored:
    return min(found, key=lambda pair: len(pair[1]))


def _gaps(bits: Bits) -> memoryview:
    """Return the number of zeros before each one; 255 skips 255 zeros and goes on."""
    gap = np.diff(np.flatnonzero(bits), prepend=-1) - 1
    if not len(gap) or gap.max() < ESCAPE:
        return gap.astype(np.uint8).data
    length = gap // ESCAPE + 1
    data = np.full(int(length.sum()), ESCAPE, np.uint8)
    data[np.cumsum(length) - 1] = gap % ESCAPE
    return data.data


def _from_gaps(stored: memoryview, count: int) -> Bits:
    # A quarter: positions take eight bytes each.
    data = np.frombuffer(decompress(stored, count // 4, exact=False), np.uint8)
    one = data != ESCAPE
    steps = data.astype(np.int64)
    steps += one
    ends = np.cumsum(steps, out=steps)[one] - 1
    if len(ends) and ends[-1] >= count:
        raise ArtefactError(f"a stream of gaps leads beyond its {count} bits")
    bits = np.zeros(count, np.bool_)
    bits[ends] = True
    return bits


def compress(data: bytes | memoryview, level: int) -> bytes:
    """Return one zstandard frame that states its content size and has no checksum."""
    made = _LOCAL.compressors
    if level not in made:  # most streams are small: making the compressor would take longer than using it
        made[level] = zstandard.ZstdCompressor(level=level, write_checksum=False)
    frame: bytes = made[level].compress(data)
    return frame


def decompress(stored: memoryview | bytes, size: int, *, exact: bool = True) -> bytes:
    """Return the content of one zstandard frame, which must state a size of ``size`` bytes, or at most that.

    Nothing is allocated before the frame's own statement was checked.

    Raises:
        ArtefactError: it is not one frame of that size.
    """
    try:
        stated: Any = zstandard.get_frame_parameters(stored)
        if stated.content_size > size or (exact and stated.content_size != size):
            raise ArtefactError(f"a zstandard frame states {stated.content_size} bytes where {size} belong")
        if stated.window_size > max(size, 1 << 10):
            raise ArtefactError(f"a zstandard frame asks for a window of {stated.window_size} bytes")
        if stated.dict_id:
            raise ArtefactError("a zstandard frame asks for a dictionary")
        data: bytes = zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ArtefactError(f"a zstandard frame cannot be read: {error}") from None
    if len(data) != stated.content_size:
        raise ArtefactError("a zstandard frame is shorter than it states")
    return data
