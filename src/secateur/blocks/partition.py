"""How one weight is cut into blocks: weight to matrix to blocks and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.ground.errors import StructureError

from .block import Block, Reshape

__all__ = ["Partition"]


@dataclass(frozen=True)
class Partition:
    """The grid of blocks over a weight.

    ``shape`` is the weight's: (outputs, inputs of a group, *taps), or, with `inputs_first` (transposed convolutions,
    ``x @ weight``, embeddings), (inputs, outputs of a group, *taps). Blocks never cross the `groups` of a
    convolution, whose outputs read other inputs; a depthwise one, whose groups have one input each, is one matrix
    of outputs x taps. Blocks at the edges are smaller where sizes do not divide.

    Raises:
        StructureError: the block is larger than the matrix, or the shape is not that of a weight.

    >>> Partition(Block(8, 1), (20, 3, 5, 5)).grid
    (1, 3, 3, 25)
    """

    block: Block
    shape: tuple[int, ...]
    groups: int = 1
    inputs_first: bool = False

    def __post_init__(self) -> None:
        if len(self.shape) < 2 or min(self.shape) < 1 or self.groups < 1 or self.shape[0] % self.groups:
            raise StructureError(
                f"A weight of shape {self.shape} with {self.groups} groups has no output x input matrix."
            )
        block, sizes = self.block, self.sizes
        limits = zip((block.rows, block.columns, block.taps), sizes[1:], strict=True)
        if any(wanted > there for wanted, there in limits):
            raise StructureError(
                f"A block of {block} is larger than the matrix of {' x '.join(map(str, sizes[1:]))} that a weight of "
                f"shape {self.shape} makes: choose a smaller block, or leave this layer out."
            )

    @property
    def merged(self) -> bool:
        """Whether the groups of a depthwise convolution stand as rows of one matrix."""
        return self.groups > 1 and self._split[2] == 1

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Sizes of the matrices: (groups, rows, columns, taps)."""
        g, m, c, t = self._split
        if self.merged:
            g, m = 1, g * m
        if self.block.reshape is Reshape.INPUTS:
            return g, m, c * t, 1
        return (g, m * t, c, 1) if self.block.reshape is Reshape.OUTPUTS else (g, m, c, t)

    @property
    def grid(self) -> tuple[int, int, int, int]:
        """Numbers of blocks: (groups, along rows, along columns, along taps)."""
        g, *sizes = self.sizes
        a, b, d = (-(-size // n) for size, n in zip(sizes, self._block, strict=True))
        return g, a, b, d

    @property
    def count(self) -> int:
        """Number of blocks."""
        return math.prod(self.grid)

    def extents(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return how many rows, columns and taps each block has along its own direction of the grid, int64."""
        return tuple(  # type: ignore[return-value]
            (size - n * torch.arange(-(-size // n))).clamp_max(n)
            for size, n in zip(self.sizes[1:], self._block, strict=True)
        )

    def entries(self) -> Tensor:
        """Return how many weights each block has, int64, of the grid's shape."""
        a, b, d = self.extents()
        return (a[:, None, None] * b[:, None] * d).expand(self.grid)

    def matrix(self, weight: Tensor) -> Tensor:
        """Return the matrices of a weight, (groups, rows, columns, taps).

        Raises:
            StructureError: the weight has another shape.
        """
        if tuple(weight.shape) != self.shape:
            raise StructureError(
                f"A pattern for weights of shape {self.shape} does not fit one of {tuple(weight.shape)}."
            )
        split = weight.reshape(self.groups, -1, *weight.shape[1:])
        if self.inputs_first:
            split = split.transpose(1, 2)
        split = split.flatten(3) if split.ndim > 3 else split[..., None]
        if self.block.reshape is Reshape.OUTPUTS:
            split = split.transpose(2, 3)
        return split.reshape(self.sizes)

    def weight(self, matrix: Tensor) -> Tensor:
        """Return the weight that makes such matrices: the inverse of `matrix`."""
        g, m, c, t = self._split
        if self.block.reshape is Reshape.OUTPUTS:
            split = matrix.reshape(g, m, t, c).transpose(2, 3)
        else:
            split = matrix.reshape(g, m, c, t)
        return (split.transpose(1, 2) if self.inputs_first else split).reshape(self.shape)

    def blocks(self, weight: Tensor) -> Tensor:
        """Return the blocks of a weight, (*grid, rows, columns, taps of a block), with zeros beyond the edges."""
        matrix = self.matrix(weight)
        margins = [
            n * parts - size
            for size, parts, n in zip(self.sizes[1:], self.grid[1:], self._block, strict=True)
        ]
        padded = F.pad(matrix, [0, margins[2], 0, margins[1], 0, margins[0]]) if any(margins) else matrix
        (g, a, b, d), (rows, columns, taps) = self.grid, self._block
        return padded.reshape(g, a, rows, b, columns, d, taps).permute(0, 1, 3, 5, 2, 4, 6)

    def unblocked(self, blocks: Tensor) -> Tensor:
        """Return the weight that has these blocks: the inverse of `blocks`."""
        (g, a, b, d), (rows, columns, taps) = self.grid, self._block
        whole = blocks.permute(0, 1, 4, 2, 5, 3, 6).reshape(g, a * rows, b * columns, d * taps)
        _, m, c, t = self.sizes
        return self.weight(whole[:, :m, :c, :t])

    def spread(self, values: Tensor) -> Tensor:
        """Return one value a block (of the grid's shape) as a tensor of the weight's shape."""
        return self.unblocked(values[..., None, None, None].expand(*self.grid, *self._block))

    @property
    def _block(self) -> tuple[int, int, int]:
        return self.block.rows, self.block.columns, self.block.taps

    @property
    def _split(self) -> tuple[int, int, int, int]:
        """(groups, outputs, inputs, taps), outputs and inputs of one group."""
        first, second = self.shape[0] // self.groups, self.shape[1]
        m, c = (second, first) if self.inputs_first else (first, second)
        return self.groups, m, c, math.prod(self.shape[2:])
