"""The JSON form of a block pattern; its states are packed, four to a byte, as base64 text."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, StrictBool

from secateur.blocks import Block, BlockPattern, Partition, Reshape
from secateur.ground.errors import StructureError

from .plan import MAX_DIMS, MAX_SIZE, Plain

__all__ = ["Pattern"]

MAX_BLOCKS = 2**28  # 64 MiB of plan.json hold fewer
_Size = Annotated[int, Field(strict=True, ge=1, le=MAX_SIZE)]


@dataclass(frozen=True)
class Pattern(Plain):
    """A pattern as a file holds it."""

    block: tuple[_Size, _Size, _Size]
    reshape: Reshape
    shape: Annotated[tuple[_Size, ...], Field(min_length=2, max_length=MAX_DIMS)]
    groups: _Size
    inputs_first: StrictBool
    states: str

    @staticmethod
    def of(pattern: BlockPattern) -> Pattern:
        """Pack a pattern."""
        partition, block = pattern.partition, pattern.partition.block
        states = pattern.states.cpu().numpy().astype(np.uint8).ravel()
        padded = np.concatenate([states, np.zeros(-len(states) % 4, np.uint8)]).reshape(-1, 4)
        packed = padded[:, 0] | padded[:, 1] << 2 | padded[:, 2] << 4 | padded[:, 3] << 6
        text = base64.b64encode(packed.tobytes()).decode()
        sides = (block.rows, block.columns, block.taps)
        return Pattern(sides, block.reshape, partition.shape, partition.groups, partition.inputs_first, text)

    def restored(self) -> BlockPattern:
        """Return the pattern that was packed.

        Raises:
            StructureError: the grid does not fit the shape, or the text does not hold its states.
        """
        block = Block(*self.block, reshape=self.reshape)
        partition = Partition(block, self.shape, self.groups, self.inputs_first)
        count, wanted = partition.count, -(-partition.count // 4)
        # Before anything of that size is made: a short text may declare a huge grid.
        fits = count <= MAX_BLOCKS and len(self.states) == 4 * -(-wanted // 3)
        try:
            packed = np.frombuffer(base64.b64decode(self.states, validate=True) if fits else b"", np.uint8)
        except (ValueError, binascii.Error):
            raise StructureError("the states are not base64 text") from None
        states = np.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], 1).ravel()
        if len(packed) != wanted or states[count:].any():
            raise StructureError(f"the text does not hold the {count} states of the grid")
        return BlockPattern(partition, torch.from_numpy(states[:count].astype(np.int8)).view(partition.grid))
