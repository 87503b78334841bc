"""Range coding of bytes and bits under one fixed distribution, which stands before the code.

The coder is `constriction`'s (R. Bamler, "Understanding Entropy Coding With Asymmetric Numeral Systems", 2022, and
its library): words of 32 bits, a state of 64, probabilities of 24. Frequencies here sum to 2^16, so that its
probabilities are exact in integers, floor(C (2^24 - n) / 2^16) + i for the i-th of n symbols, and the format
does not depend on anybody's floating point.
"""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from secateur.ground.errors import ArtefactError

__all__ = ["decode_bits", "decode_bytes", "encode_bits", "encode_bytes"]

TOTAL = 1 << 16
CHUNK = 1 << 20  # the decoder gives 32-bit symbols: so many at once bounds its memory

queue: Any = constriction.stream.queue
models: Any = constriction.stream.model


def encode_bytes(data: NDArray[np.uint8], bound: int) -> bytes | None:
    """Return number of symbols - 1, symbols, frequencies (16 bits) and code; nothing where that exceeds ``bound``."""
    counts = np.bincount(data, minlength=256)
    symbols = np.flatnonzero(counts)
    if len(symbols) < 2 or 3 * len(symbols) >= bound:
        return None
    counts = counts[symbols]
    entropy = float(len(data) * np.log2(len(data)) - (counts * np.log2(counts)).sum())
    if entropy / 8 + 3 * len(symbols) >= bound:
        return None
    frequencies = _frequencies(counts)
    index = np.zeros(256, np.int32)
    index[symbols] = np.arange(len(symbols))
    head = (
        bytes([len(symbols) - 1]) + symbols.astype(np.uint8).tobytes() + frequencies.astype("<u2").tobytes()
    )
    return head + _encode(index[data], models.Categorical(frequencies / TOTAL, perfect=False))


def decode_bytes(stored: memoryview, count: int) -> NDArray[np.uint8]:
    """Return ``count`` bytes.

    Raises:
        ArtefactError: the table is not one.
    """
    number = stored[0] + 1 if len(stored) else 0
    end = 1 + 3 * number
    if number < 2 or len(stored) < end:
        raise ArtefactError("a range-coded stream has no table of symbols")
    symbols = np.frombuffer(stored[1 : 1 + number], np.uint8)
    frequencies = np.frombuffer(stored[1 + number : end], "<u2").astype(np.int64)
    if (np.diff(symbols.astype(int)) <= 0).any() or frequencies.min() < 1 or frequencies.sum() != TOTAL:
        raise ArtefactError("the table of a range-coded stream is not a distribution")
    out = np.empty(count, np.uint8)
    model = models.Categorical(frequencies / TOTAL, perfect=False)
    _decode(stored[end:], model, out, symbols)
    return out


def encode_bits(bits: NDArray[np.bool_], ones: int) -> bytes:
    """Return the frequency of ones (16 bits) and the code; both values must occur."""
    frequency = int(_frequencies(np.array([len(bits) - ones, ones]))[1])
    model = models.Bernoulli(frequency / TOTAL, perfect=False)
    return frequency.to_bytes(2, "little") + _encode(bits.astype(np.int32), model)


def decode_bits(stored: memoryview, count: int) -> NDArray[np.bool_]:
    """Return ``count`` bits.

    Raises:
        ArtefactError: there is no frequency, or none that is possible.
    """
    frequency = int.from_bytes(stored[:2], "little")
    if len(stored) < 2 or frequency < 1:
        raise ArtefactError("a range-coded stream of bits has no frequency")
    out = np.empty(count, np.uint8)
    model = models.Bernoulli(frequency / TOTAL, perfect=False)
    _decode(stored[2:], model, out, np.arange(2, dtype=np.uint8))
    return out.view(np.bool_)


def _frequencies(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Return frequencies of at least 1 that sum to 2^16; what rounding leaves goes to the most frequent symbol."""
    scaled: NDArray[np.int64] = np.maximum(1, (counts * TOTAL) // counts.sum()).astype(np.int64)
    scaled[np.argmax(scaled)] += TOTAL - scaled.sum()
    return scaled


def _encode(symbols: NDArray[np.int32], model: Any) -> bytes:
    coder = queue.RangeEncoder()
    coder.encode(symbols, model)
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype("<u4").tobytes()


def _decode(stored: memoryview, model: Any, out: NDArray[np.uint8], symbols: NDArray[np.uint8]) -> None:
    if len(stored) % 4:
        raise ArtefactError("a range code is not a whole number of words")
    coder = queue.RangeDecoder(np.frombuffer(stored, "<u4").astype(np.uint32))
    try:
        for start in range(0, len(out), CHUNK):
            stop = min(start + CHUNK, len(out))
            out[start:stop] = symbols[coder.decode(model, stop - start)]
    except AssertionError:  # how constriction says that no encoder makes this
        raise ArtefactError("a range code is not one of its distribution") from None
