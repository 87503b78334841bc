"""Cutting a tensor into blocks and joining them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blocks", "matrix_blocks"]

Words = NDArray[Any]  # unsigned integers, one an element: the bits of the values
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Blocks:
    """A view of a tensor, and the size of a block along each axis of the view.

    ``axes`` says which dimensions of the tensor are merged into each axis of the view, in that order; each
    dimension stands once. Blocks begin at index 0 of each axis; those at the far edges may be partial.

    >>> Blocks(((0,), (1, 2, 3)), (8, 1)).grid((16, 3, 3, 3))
    (2, 27)
    """

    axes: tuple[tuple[int, ...], ...]
    block: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements of a whole block."""
        return prod(self.block)

    def view(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the sizes of the view's axes for a tensor of this shape."""
        return tuple(prod(shape[dim] for dim in dims) for dims in self.axes)

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return how many blocks there are along each axis."""
        return tuple(-(-size // step) for size, step in zip(self.view(shape), self.block, strict=True))

    def cut(self, words: Words) -> Words:
        """Return (positions, blocks): row i has the i-th element of every block; what partial ones lack is 0."""
        view, grid = self.view(words.shape), self.grid(words.shape)
        array = words.transpose([dim for dims in self.axes for dim in dims]).reshape(view)
        if self.size == 1:
            return array.reshape(1, -1)
        padding = [(0, n * step - size) for n, step, size in zip(grid, self.block, view, strict=True)]
        if any(after for _, after in padding):
            array = np.pad(array, padding)
        rank = len(grid)
        array = array.reshape([n for pair in zip(grid, self.block, strict=True) for n in pair])
        return array.transpose([*range(1, 2 * rank, 2), *range(0, 2 * rank, 2)]).reshape(self.size, -1)

    def inside(self, shape: Sequence[int]) -> Mask | None:
        """Return which entries of `cut` are elements of the tensor; nothing where all are."""
        if all(size % step == 0 for size, step in zip(self.view(shape), self.block, strict=True)):
            return None
        return self.cut(np.ones(shape, bool))

    def join(self, blocks: Words, shape: Sequence[int]) -> Words:
        """Return the tensor of which `cut` made these blocks."""
        view, grid, rank = self.view(shape), self.grid(shape), len(self.block)
        array = blocks.reshape(*self.block, *grid)
        array = array.transpose([i for axis in range(rank) for i in (rank + axis, axis)])
        array = array.reshape([n * step for n, step in zip(grid, self.block, strict=True)])
        array = array[tuple(slice(size) for size in view)]
        order = [dim for dims in self.axes for dim in dims]
        array = array.reshape([shape[dim] for dim in order])
        return np.ascontiguousarray(array.transpose(np.argsort(order)))


def matrix_blocks(ndim: int, rows: int, columns: int) -> Blocks:
    """Return blocks of rows x columns of the matrix of dimension 0 against all others in their order.

    >>> matrix_blocks(4, 8, 1)
    Blocks(axes=((0,), (1, 2, 3)), block=(8, 1))
    >>> matrix_blocks(1, 1, 4)
    Blocks(axes=((0,),), block=(4,))
    """
    if ndim < 2:
        return Blocks((tuple(range(ndim)),), (rows * columns,))
    return Blocks(((0,), tuple(range(1, ndim))), (rows, columns))
