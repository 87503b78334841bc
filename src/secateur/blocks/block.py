"""The shape of a block, and the matrix that it cuts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from secateur.ground.errors import StructureError

__all__ = ["PRESETS", "Block", "Reshape"]


class Reshape(Enum):
    """How the weight of a convolution becomes a matrix; all three are the same for linear layers.

    ``TAPS`` is 3D, outputs x inputs x taps: a block of one tap reads neighbouring inputs at the same tap. ``INPUTS``
    is 2D, outputs x (inputs, taps), the order of im2col. ``OUTPUTS`` is 2D, (outputs, taps) x inputs, the order of
    kn2row. Blocks with one column and one tap are the same under the first two.
    """

    TAPS = "taps"
    INPUTS = "inputs"
    OUTPUTS = "outputs"


@dataclass(frozen=True)
class Block:
    """A block of rows x columns (x taps) of the output x input matrix of a weight.

    Raises:
        StructureError: a size is not a positive integer, or taps are given for a matrix that has none of its own.

    >>> str(Block(8, 1)), str(Block(4, 2, taps=3)), Block(4, 4).size
    ('8x1', '4x2x3', 16)
    """

    rows: int
    columns: int
    taps: int = 1
    reshape: Reshape = Reshape.TAPS

    def __post_init__(self) -> None:
        for name in ("rows", "columns", "taps"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise StructureError(f"Block {name}={value!r}: it must be a whole number of at least 1.")
        if not isinstance(self.reshape, Reshape):
            raise StructureError(f"Block reshape={self.reshape!r}: it must be a Reshape, as Reshape.TAPS.")
        if self.taps > 1 and self.reshape is not Reshape.TAPS:
            raise StructureError(
                f"Block {self} has taps of its own, which {self.reshape} puts among the "
                f"{self.reshape.value}: use Reshape.TAPS, or taps=1."
            )

    @property
    def size(self) -> int:
        """Number of weights in a whole block."""
        return self.rows * self.columns * self.taps

    @staticmethod
    def parse(text: str) -> Block:
        """Return the block that a text such as ``"8x1"`` or ``"4x2x3"`` names: rows x columns (x taps).

        Raises:
            StructureError: it names none.

        >>> Block.parse("4x1") == PRESETS["4x1"]
        True
        """
        if not re.fullmatch(r"\d{1,9}(x\d{1,9}){1,2}", text):
            raise StructureError(f"{text!r} is no block: write rows x columns (x taps), as '8x1' or '4x2x3'.")
        rows, columns, *taps = map(int, text.split("x"))
        return Block(rows, columns, taps[0] if taps else 1)

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}" + (f"x{self.taps}" if self.taps > 1 else "")


PRESETS: Mapping[str, Block] = MappingProxyType(
    {
        str(block): block
        for block in (Block(4, 1), Block(8, 1), Block(4, 4), Block(8, 4), Block(16, 4), Block(1, 4))
    }
)
"""The shapes that kernels are made for: Nx1 for zeros in float32, Nx4 for zeros in int8, 1x4 for unified blocks."""
