"""Finding block structure in values: which blocks would make a tensor smallest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blocks import Blocks

__all__ = ["detect", "entropy"]

Words = NDArray[Any]

TALLEST = 16  # rows of a block
LARGEST = 1 << 14  # elements of one
SAMPLE = 1 << 12  # elements that are looked at, about, in stripes of TALLEST rows
SMALL = 16  # elements of tensors that are not looked at
WORTH = 0.99  # of the dense size: what blocks must save


@dataclass(frozen=True)
class _Level:
    """A sample cut into blocks: the magnitude of each, (rows, inputs, taps), or `other` where there are several."""

    blocks: Words
    other: Any
    value: float
    signed: bool
    rows: int = 1
    columns: int = 1
    taps_first: bool = False

    def grown(self, axis: int, first: int) -> _Level:
        """Join so many blocks along an axis, then pairs, while that makes them better."""
        level = self
        for step in (first, 2, 2, 2):
            if level.blocks.shape[axis] < step or level.rows * level.columns * step > LARGEST:
                break
            wider = level._joined(axis, step)
            if wider is None or wider.bits >= level.bits:
                break
            level = wider
        return level

    def _joined(self, axis: int, step: int) -> _Level | None:
        whole = self.blocks.shape[axis] // step * step  # last ones without neighbours are left out
        head, *others = (self.blocks[(slice(None),) * axis + (slice(i, whole, step),)] for i in range(step))
        same = head == others[0]
        for part in others[1:]:
            same &= head == part
            if (1 - np.count_nonzero(same) / same.size) * self.value >= self.bits:
                return None  # what is kept alone takes more
        rows, columns = (self.rows * step, self.columns) if axis == 0 else (self.rows, self.columns * step)
        return replace(self, blocks=np.where(same, head, self.other), rows=rows, columns=columns)

    @cached_property
    def bits(self) -> float:
        """About how many bits an element takes; one of a block that is kept takes ``value``."""
        count, size = self.blocks.size, self.rows * self.columns
        kept = nonzero = int(np.count_nonzero(self.blocks))
        if self.signed and size > 1:
            kept = int(np.count_nonzero(self.blocks == self.other))
        states = count * entropy(nonzero / count) + nonzero * entropy(kept / max(1, nonzero))
        return (states + (nonzero - kept) * (self.value + size)) / (count * size) + kept / count * self.value


def detect(words: Words, value: float, signed: bool) -> Blocks | None:
    """Return the blocks that make an array smallest, as estimated on a sample; None where it is best left dense.

    ``words`` are in the tensor's shape; of ``signed`` ones the last bit is the sign. ``value`` is about how many bits
    one word of a dense tensor takes. Blocks grow while they get better: first along rows; then along columns, whole
    kernels, or neighbouring inputs of one tap.
    """
    if words.size < SMALL or not words.ndim:
        return None
    cube = _sample(words.reshape(len(words), words.shape[1] if words.ndim > 1 else 1, -1))
    if signed:
        cube = cube >> cube.dtype.type(1)
    tall = _Level(cube, np.iinfo(cube.dtype).max, value, signed).grown(0, 2)
    found = [replace(tall, blocks=tall.blocks.reshape(len(tall.blocks), 1, -1)).grown(2, 2)]
    if cube.shape[2] > 1:
        kernels = tall.grown(2, cube.shape[2])
        found += [kernels if kernels is tall else kernels.grown(1, 2)]
        found += [replace(tall, taps_first=True).grown(1, 2)]
    best = min(found, key=lambda level: level.bits)
    return Blocks(best.rows, best.columns, best.taps_first) if best.bits < WORTH * value else None


def _sample(cube: Words) -> Words:
    """Return stripes of rows, each with some inputs: those of the first stripe are the first, then further ones."""
    rows, inputs, taps = cube.shape
    if cube.size <= SAMPLE:
        return cube
    width = min(inputs, max(TALLEST, SAMPLE // (4 * TALLEST * taps) // TALLEST * TALLEST))
    stripes = min(max(2, SAMPLE // (TALLEST * width * taps)), max(1, rows // TALLEST))
    starts = [i * (rows // TALLEST) // stripes * TALLEST for i in range(stripes)]
    offsets = [i * ((inputs - width) // TALLEST) // max(1, stripes - 1) * TALLEST for i in range(stripes)]
    return np.concatenate(
        [cube[s : s + TALLEST, o : o + width] for s, o in zip(starts, offsets, strict=True)]
    )


def entropy(p: float) -> float:
    """Return the bits of one of two states, of which this is the share."""
    return 0.0 if p <= 0 or p >= 1 else -p * log2(p) - (1 - p) * log2(1 - p)
