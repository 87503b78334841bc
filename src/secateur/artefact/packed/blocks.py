"""Cutting a tensor's matrix into blocks of rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, StrictBool
from pydantic.dataclasses import dataclass

from .words import Words

__all__ = ["Blocks"]

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
        if not shape or not prod(shape) or (self.taps_first and len(shape) < 3):
            return False
        return self.rows <= shape[0] and self.columns <= prod(shape[1:])

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
