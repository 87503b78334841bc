"""Finding block structure in values: which block size would make a tensor smallest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blocks import Blocks, matrix_blocks

__all__ = ["detect"]

Words = NDArray[Any]

MAX_BLOCK = 256  # elements
MAX_KERNELS = 1 << 14  # elements of a block of whole kernels
MAX_SIDE = 16
SAMPLE = 1 << 15  # elements that are looked at, about, in two stripes of MAX_SIDE rows or more
SMALL = 16  # elements of tensors that are not looked at
WORTH = 0.99  # of the dense size: what a candidate must save
NEAR = 1.01  # candidates whose estimate is this near to the best are tried, at most two


@dataclass(frozen=True)
class _Level:
    """A sample at one block size: which blocks are constant, and the first element of each."""

    constant: NDArray[np.bool_]
    heads: Words

    def halved(self, axis: int) -> _Level:
        """Join neighbours along the first or last axis; a last one without a neighbour is left out of the sample."""
        whole = self.heads.shape[axis] // 2 * 2
        even, odd = slice(0, whole, 2), slice(1, whole, 2)
        first, other = ((even, ...), (odd, ...)) if axis == 0 else ((..., even), (..., odd))
        heads = self.heads[first]
        return _Level(self.constant[first] & self.constant[other] & (heads == self.heads[other]), heads)


class _Search:
    """Weighs block sizes on a sample; leaves out those that cannot beat the best so far."""

    def __init__(self, elements: int, value_bits: float, signed: bool) -> None:
        self.elements, self.value_bits, self.signed = elements, value_bits, signed
        self.dense = self.best = elements * value_bits
        self.found: list[tuple[float, Blocks]] = []

    def weigh(self, blocks: Blocks, level: _Level) -> bool:
        """Note a candidate; return whether larger blocks, which are constant only where these are, may be better."""
        if blocks.size > MAX_KERNELS:
            return False
        count, size = level.constant.size, self.elements / level.constant.size
        constant = int(np.count_nonzero(level.constant))
        if (
            1 - constant / count
        ) * self.dense >= self.best:  # what is not constant alone takes more than the best
            return False
        zero = int(np.count_nonzero(level.constant & (level.heads == 0)))
        unified = constant - zero if self.signed and blocks.size > 1 else 0
        kept = count - zero - unified
        bits = count * _entropy(zero / count) + (count - zero) * _entropy(unified / max(1, count - zero))
        bits += kept * size * self.value_bits + unified * (self.value_bits + size)
        if bits < WORTH * self.dense:
            self.found.append((bits, blocks))
            self.best = min(self.best, bits)
        return True

    def grow(self, level: _Level, make: Callable[[int, int], Blocks]) -> None:
        """Double the sides of blocks: first along the first axis alone, then from each of these along the last."""
        tall, r = [(1, level)], 1
        while level.heads.shape[0] > 1 and r < MAX_SIDE:
            level, r = level.halved(0), 2 * r
            if not self.weigh(make(r, 1), level):
                break
            tall.append((r, level))
        for r, level in tall:
            c = 1
            while level.heads.shape[-1] > 1 and c < MAX_SIDE and r * c < MAX_BLOCK:
                level, c = level.halved(-1), 2 * c
                if not self.weigh(make(r, c), level):
                    break


def detect(magnitudes: Words, value_bits: float, signed: bool) -> list[Blocks | None]:
    """Return the layouts worth trying, best estimate first; None stands for the dense one.

    ``magnitudes`` are the words without signs, in the tensor's shape; ``value_bits`` is what one value of a dense
    tensor takes. Blocks of equal magnitude are sought where values are ``signed``, blocks of zeros everywhere.
    Estimates come from a sample of the rows; the coder then looks at every block of the whole tensor.
    """
    if magnitudes.size < SMALL:
        return [None]
    ndim, sample = magnitudes.ndim, _sample(magnitudes)
    search = _Search(sample.size, value_bits, signed)
    rows = len(sample)
    matrix = _Level(np.ones((rows, sample.size // rows), np.bool_), sample.reshape(rows, -1))
    search.weigh(matrix_blocks(ndim, 1, 1), matrix)
    search.grow(matrix, lambda r, c: matrix_blocks(ndim, r, c))
    taps = sample.reshape(rows, sample.shape[1], -1) if ndim > 2 else None
    if taps is not None and taps.shape[2] > 1:
        # Convolutions: whole kernels, and neighbouring inputs of one tap.
        dims = tuple(range(2, ndim))
        kernels = _Level((taps == taps[:, :, :1]).all(axis=2), taps[:, :, 0])
        per_kernel = ((0,), (1,), dims)
        if search.weigh(Blocks(per_kernel, (1, 1, taps.shape[2])), kernels):
            search.grow(kernels, lambda r, c: Blocks(per_kernel, (r, c, taps.shape[2])))
        inputs = taps.transpose(0, 2, 1)
        search.grow(
            _Level(np.ones(inputs.shape, np.bool_), inputs),
            lambda r, c: Blocks(((0,), dims, (1,)), (r, 1, c)),
        )
    # Of views that cut the same blocks one is enough: their estimates are the same.
    near = {(bits, blocks.size): blocks for bits, blocks in search.found if bits <= NEAR * search.best}
    return [near[key] for key in sorted(near)[:2]] or [None]


def _sample(magnitudes: Words) -> Words:
    rows = len(magnitudes)
    stripes = max(2, SAMPLE * rows // magnitudes.size // MAX_SIDE)
    if stripes * MAX_SIDE >= rows:
        return magnitudes
    starts = np.arange(stripes) * (rows // MAX_SIDE // stripes) * MAX_SIDE
    return np.concatenate([magnitudes[start : start + MAX_SIDE] for start in starts])


def _entropy(p: float) -> float:
    return 0.0 if p <= 0 or p >= 1 else -p * log2(p) - (1 - p) * log2(1 - p)
