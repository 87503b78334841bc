"""Finding block structure in values: which block size would make a tensor smallest."""

from __future__ import annotations

from collections.abc import Callable
from math import log2, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blocks import Blocks, matrix_blocks

__all__ = ["detect"]

Words = NDArray[Any]

MAX_BLOCK = 256  # elements
MAX_KERNELS = 1 << 14  # elements of a block of whole kernels
MAX_SIDE = 16
SAMPLE = 1 << 13  # elements that are looked at, about, in two stripes of MAX_SIDE rows and columns or more
SMALL = 16  # elements of tensors that are not looked at
WORTH = 0.99  # of the dense size: what a candidate must save
NEAR = 1.01  # candidates whose estimate is this near to the best are worth trying, at most two


class _Search:
    """Weighs block sizes on a sample; leaves out those that cannot beat the best so far.

    A level is the sample at one block size: the magnitude of each constant block, and `other` for those that are not.
    """

    def __init__(self, elements: int, value_bits: float, signed: bool, other: Any) -> None:
        self.elements, self.value_bits, self.signed, self.other = elements, value_bits, signed, other
        self.dense = self.best = elements * value_bits
        self.found: list[tuple[float, Blocks]] = []

    def hopeless(self, constant: float) -> bool:
        """Whether what is kept alone takes more than the best, where this share of the blocks is zero or unified."""
        return (1 - constant) * self.dense >= self.best

    def weigh(self, blocks: Blocks, level: Words) -> float | None:
        """Note a candidate; return the share of zero and unified blocks.

        Nothing, where larger blocks, which are so only where these are, cannot be better.
        """
        count, size = level.size, blocks.size
        if size > MAX_KERNELS or not count:
            return None
        zero = count - int(np.count_nonzero(level))
        constant = zero
        if self.signed and size > 1:
            constant = count - int(np.count_nonzero(level == self.other))
        if self.hopeless(constant / count):
            return None
        unified, kept = constant - zero, count - constant
        bits = count * _entropy(zero / count) + (count - zero) * _entropy(unified / max(1, count - zero))
        bits += kept * (self.elements / count) * self.value_bits
        bits += unified * (self.value_bits + self.elements / count)
        if bits < WORTH * self.dense:
            self.found.append((bits, blocks))
            self.best = min(self.best, bits)
        return constant / count

    def halved(self, level: Words, axis: int) -> Words:
        """Join neighbours along the first or last axis; a last one without a neighbour is left out of the sample."""
        whole = level.shape[axis] // 2 * 2
        even, odd = slice(0, whole, 2), slice(1, whole, 2)
        heads, others = (level[even], level[odd]) if axis == 0 else (level[..., even], level[..., odd])
        return np.where(heads == others, heads, self.other)

    def kernels(self, level: Words, taps: int) -> Words:
        """Join the taps of each input along the last axis."""
        by_tap = level.reshape(len(level), -1, taps)
        heads, same = by_tap[:, :, 0], np.ones(by_tap.shape[:2], np.bool_)
        for tap in range(1, taps):  # far quicker than a reduction over a short axis
            same &= by_tap[:, :, tap] == heads
            if self.hopeless(np.count_nonzero(same) / same.size):
                break
        return np.where(same, heads, self.other)

    def inputs(self, level: Words, taps: int) -> Words:
        """Join neighbouring inputs of each tap along the last axis."""
        return self.halved(level.reshape(len(level), -1, taps).transpose(0, 2, 1), -1)

    def grow(self, level: Words, make: Callable[[int, int], Blocks]) -> list[tuple[int, Words]]:
        """Double blocks of one column along the first axis; return those to widen.

        Blocks whose doubles are zero or unified as often are not among them: so are their wider ones' doubles, of which
        there are fewer.
        """
        share, tall, r = self.weigh(make(1, 1), level), [(1, level)], 1
        while len(level) > 1 and r < MAX_SIDE:
            level, r = self.halved(level, 0), 2 * r
            found = self.weigh(make(r, 1), level)
            if found is None:
                break
            if found == share:
                tall.pop()
            tall.append((r, level))
            share = found
        return tall

    def widen(
        self,
        tall: list[tuple[int, Words]],
        view: Callable[[Words], Words],
        first: int,
        make: Callable[[int, int], Blocks],
    ) -> None:
        """Double tall blocks along the last axis of a view of theirs, which has blocks of ``first`` columns."""
        widest = MAX_SIDE  # taller blocks are constant only where these are: of too wide ones there are none better
        for r, level in tall:
            if widest < first:
                return
            level, c = view(level), first
            while c <= widest and r * c <= MAX_BLOCK:
                if self.weigh(make(r, c), level) is None:
                    widest = c // 2
                    break
                level, c = self.halved(level, -1), 2 * c


def detect(words: Words, value_bits: float, signed: bool) -> list[Blocks | None]:
    """Return the layouts worth trying, best estimate first; None stands for the dense one.

    ``words`` are in the tensor's shape; of ``signed`` ones the last bit is the sign. ``value_bits`` is what one value
    of a dense tensor takes. Blocks of equal magnitude are sought where values are signed, blocks of zeros everywhere.
    Estimates come from a sample of the rows; the coder then looks at every block of the whole tensor.
    """
    if words.size < SMALL:
        return [None]
    ndim, sample = words.ndim, _sample(words)
    if signed:
        sample = sample >> sample.dtype.type(1)
    # All ones: no magnitude, and of unsigned words only zeros count.
    search = _Search(sample.size, value_bits, signed, sample.dtype.type(np.iinfo(sample.dtype).max))
    matrix = sample.reshape(len(sample), -1)
    tall = search.grow(matrix, lambda r, c: matrix_blocks(ndim, r, c))
    search.widen(tall, lambda level: search.halved(level, -1), 2, lambda r, c: matrix_blocks(ndim, r, c))
    taps = prod(sample.shape[2:])
    if ndim > 2 and taps > 1:
        # Convolutions: whole kernels, and neighbouring inputs of one tap.
        dims = tuple(range(2, ndim))
        per_kernel, per_tap = ((0,), (1,), dims), ((0,), dims, (1,))
        search.widen(
            tall, lambda level: search.kernels(level, taps), 1, lambda r, c: Blocks(per_kernel, (r, c, taps))
        )
        search.widen(
            tall, lambda level: search.inputs(level, taps), 2, lambda r, c: Blocks(per_tap, (r, 1, c))
        )
    # Of views that cut the same blocks one is enough: their estimates are the same.
    near = {(bits, blocks.size): blocks for bits, blocks in search.found if bits <= NEAR * search.best}
    return [near[key] for key in sorted(near)[:2]] or [None]


def _sample(words: Words) -> Words:
    rows = len(words)
    stripes = max(2, SAMPLE * rows // words.size // MAX_SIDE)
    if stripes * MAX_SIDE >= rows:
        return words
    starts = np.arange(stripes) * (rows // MAX_SIDE // stripes) * MAX_SIDE
    if words.ndim == 1:
        return np.concatenate([words[start : start + MAX_SIDE] for start in starts])
    # Of wide ones some columns: the first of the first stripe, then further ones.
    columns, taps = words.shape[1], prod(words.shape[2:])
    width = max(1, SAMPLE // (stripes * MAX_SIDE * max(1, taps) * MAX_SIDE)) * MAX_SIDE
    steps = max(0, columns - width) // MAX_SIDE
    offsets = np.arange(stripes) * steps // (stripes - 1) * MAX_SIDE
    return np.concatenate(
        [words[s : s + MAX_SIDE, o : o + width] for s, o in zip(starts, offsets, strict=True)]
    )


def _entropy(p: float) -> float:
    return 0.0 if p <= 0 or p >= 1 else -p * log2(p) - (1 - p) * log2(1 - p)
