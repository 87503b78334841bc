"""Blocks of rows and columns of a tensor's matrix: cutting it, and finding those that make it smallest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from math import log2, prod
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, StrictBool
from pydantic.dataclasses import dataclass

from .words import Words

__all__ = ["Blocks", "detect", "entropy"]

TALLEST = 16  # rows of a block
LARGEST = 1 << 14  # elements of one
SAMPLE = 1 << 12  # elements that are looked at, about, in stripes of TALLEST rows
SMALL = 16  # elements of tensors that are not looked at
WORTH = 0.99  # of the dense size: what blocks must save

Side = Annotated[int, Field(strict=True, ge=1, le=1 << 16)]
Places = NDArray[np.int64]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Blocks:
    """Blocks of ``rows`` x ``columns`` of a tensor's matrix: dimension 0 against all others in their order.

    With ``taps_first`` dimension 1 is the last of them, so that the columns of a block are neighbouring inputs of one
    tap of a convolution. Blocks begin at row 0 and column 0; those at the far edges may be partial. A tensor of one
    dimension has one column.

    >>> Blocks(8).grid((20, 3, 5, 5))
    (3, 75)
    """

    rows: Side
    columns: Side = 1
    taps_first: StrictBool = False

    @property
    def size(self) -> int:
        """Elements of a whole block."""
        return self.rows * self.columns

    def fit(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape can be cut: it has elements, and is no smaller than a block."""
        there = bool(shape) and 0 not in shape and (len(shape) > 2 or not self.taps_first)
        return there and self.rows <= shape[0] and self.columns <= prod(shape[1:])

    def grid(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return how many blocks there are along rows and columns."""
        return -(-shape[0] // self.rows), -(-prod(shape[1:]) // self.columns)

    def matrix(self, words: Words) -> Words:
        """Return the matrix of a tensor."""
        ordered = np.moveaxis(words, 1, -1) if self.taps_first else words
        return np.ascontiguousarray(ordered.reshape(len(words), -1))

    def tensor(self, matrix: Words, shape: Sequence[int]) -> Words:
        """Return the tensor of which `matrix` made this."""
        if not self.taps_first:
            return matrix.reshape(shape)
        return np.ascontiguousarray(np.moveaxis(matrix.reshape(shape[0], *shape[2:], shape[1]), -1, 1))

    def fold(self, reduce: np.ufunc, matrix: Words) -> Words:
        """Reduce each block of a matrix to one word."""
        whole = len(matrix) // self.rows * self.rows
        tall: Words = reduce.reduce(matrix[:whole].reshape(-1, self.rows, matrix.shape[1]), axis=1)
        if whole < len(matrix):
            tall = np.concatenate([tall, reduce.reduce(matrix[whole:], axis=0, keepdims=True)])
        folded = tall[:, :: self.columns].copy()
        for i in range(1, self.columns):  # far quicker than to reduce over a short axis
            part = tall[:, i :: self.columns]
            reduce(folded[:, : part.shape[1]], part, out=folded[:, : part.shape[1]])
        return folded

    def places(self, chosen: NDArray[np.bool_], shape: Sequence[int]) -> Places:
        """Return the places, in the flattened matrix, of the elements of chosen blocks, ascending."""
        tall = np.repeat(chosen, self.rows, axis=0)[: shape[0]] if self.rows > 1 else chosen
        whole = np.repeat(tall, self.columns, axis=1)[:, : prod(shape[1:])] if self.columns > 1 else tall
        return np.flatnonzero(whole)

    def block_of(self, places: Places, shape: Sequence[int]) -> Places:
        """Return the number of each place's block, in row-major order of the grid."""
        width = prod(shape[1:])
        above: Places = places // (self.rows * width) * self.grid(shape)[1]
        return above + places % width // self.columns

    def natural(self, places: Places, shape: Sequence[int]) -> Places:
        """Return the places in the flattened tensor."""
        if not self.taps_first:
            return places
        width, taps = prod(shape[1:]), prod(shape[2:])
        inside = places % width
        return places - inside + inside % shape[1] * taps + inside // shape[1]


@dataclasses.dataclass(frozen=True)
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
        return dataclasses.replace(self, blocks=np.where(same, head, self.other), rows=rows, columns=columns)

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
    cube = cube >> cube.dtype.type(signed)
    tall = _Level(cube, np.iinfo(cube.dtype).max, value, signed).grown(0, 2)
    found = [dataclasses.replace(tall, blocks=tall.blocks.reshape(len(tall.blocks), 1, -1)).grown(2, 2)]
    if cube.shape[2] > 1:
        kernels = tall.grown(2, cube.shape[2])
        found += [kernels if kernels is tall else kernels.grown(1, 2)]
        found += [dataclasses.replace(tall, taps_first=True).grown(1, 2)]
    best = min(found, key=lambda level: level.bits)
    return Blocks(best.rows, best.columns, best.taps_first) if best.bits < WORTH * value else None


def _sample(cube: Words) -> Words:
    """Return stripes of rows, each with some inputs: those of the first stripe are the first, then further ones."""
    rows, inputs, taps = cube.shape
    if cube.size <= SAMPLE:
        return cube
    width = min(inputs, max(TALLEST, SAMPLE // (4 * TALLEST * taps) // TALLEST * TALLEST))
    stripes = max(2, SAMPLE // (min(rows, TALLEST) * width * taps))
    starts = [i * (rows // TALLEST) // stripes * TALLEST for i in range(stripes)]
    offsets = [i * ((inputs - width) // TALLEST) // max(1, stripes - 1) * TALLEST for i in range(stripes)]
    stripe = (slice(TALLEST), slice(width))
    return np.concatenate([cube[s:, o:][stripe] for s, o in zip(starts, offsets, strict=True)])


def entropy(p: float) -> float:
    """Return the bits of one of two states, of which this is the share."""
    return 0.0 if p <= 0 or p >= 1 else -p * log2(p) - (1 - p) * log2(1 - p)
