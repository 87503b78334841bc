"""A pattern: which blocks of a weight are kept, zero or unified."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.ground.devices import moments_device, onto
from secateur.ground.errors import StructureError

from .partition import Partition

__all__ = ["KEEP", "UNIFY", "ZERO", "BlockPattern"]

KEEP, ZERO, UNIFY = 0, 1, 2
"""The states of a block: every weight its own; all zero; one magnitude for all, signs kept."""


@dataclass(frozen=True, eq=False)
class BlockPattern:
    """The states of all blocks of one weight, int8, of the grid's shape.

    Raises:
        StructureError: the states have another shape or type, or one is not among the three.

    >>> from secateur.blocks import Block
    >>> pattern = BlockPattern(Partition(Block(2, 1), (4, 2)), torch.tensor([[[[0], [1]], [[2], [2]]]]).to(torch.int8))
    >>> pattern.project(torch.tensor([[1.0, 1.0], [2.0, 2.0], [1.0, -1.0], [-3.0, 2.0]]))
    tensor([[ 1.0000,  0.0000],
            [ 2.0000,  0.0000],
            [ 2.0000, -1.5000],
            [-2.0000,  1.5000]])
    """

    partition: Partition
    states: Tensor

    def __post_init__(self) -> None:
        states = self.states
        if states.dtype != torch.int8 or tuple(states.shape) != self.partition.grid:
            raise StructureError(
                f"States are int8 of shape {self.partition.grid}, one a block, not {states.dtype} of "
                f"{tuple(states.shape)}."
            )
        if int(states.min()) < KEEP or int(states.max()) > UNIFY:
            raise StructureError(
                f"A state is {KEEP} (keep), {ZERO} (zero) or {UNIFY} (unify), not {int(states.min())} "
                f"to {int(states.max())}."
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BlockPattern):
            return NotImplemented
        return self.partition == other.partition and torch.equal(self.states, other.states)

    def __hash__(self) -> int:
        return hash(self.partition)

    @staticmethod
    def observed(partition: Partition, weight: Tensor) -> BlockPattern:
        """Return the pattern that a weight obeys as it is: blocks of zeros, and blocks of one magnitude.

        Blocks of a single weight are kept unless it is zero.
        """
        sizes = partition.blocks(weight.detach().abs()).flatten(4).cpu()
        largest = sizes.amax(-1, keepdim=True)
        inside = partition.blocks(torch.ones(partition.shape, dtype=torch.bool)).flatten(4)
        one = ((sizes == largest) | ~inside).all(-1) & (partition.entries() > 1)
        states = torch.full(partition.grid, KEEP, dtype=torch.int8)
        states[one] = UNIFY
        states[largest[..., 0] == 0] = ZERO
        return BlockPattern(partition, states)

    def share(self, state: int) -> float:
        """Return the share of the blocks that have a state."""
        return float((self.states == state).double().mean())

    def mask(self) -> Tensor:
        """Return which weights are not in zero blocks, bool, of the weight's shape."""
        return self.partition.spread(self.states != ZERO)

    def unified(self) -> Tensor:
        """Return which weights are in unified blocks, bool, of the weight's shape."""
        return self.partition.spread(self.states == UNIFY)

    def magnitudes(self, weight: Tensor) -> Tensor:
        """Return the mean absolute value of each unified block, and 0 elsewhere, of the grid's shape."""
        # In float64 the mean of equal narrower numbers is that number: projecting again changes nothing.
        exact = weight.to(moments_device(weight.device)).double()
        total = self.partition.blocks(exact.abs()).sum((-3, -2, -1))
        mean = onto(total / self.partition.entries().to(exact.device), weight)
        return torch.where(self.states.to(weight.device) == UNIFY, mean, torch.zeros_like(mean))

    def with_magnitudes(self, weight: Tensor, magnitudes: Tensor) -> Tensor:
        """Return the weight with zero blocks at 0 and unified ones at their magnitude; the sign of 0 is +."""
        sign = torch.where(weight < 0, -1.0, 1.0).to(weight.dtype)
        unified = sign * self.partition.spread(magnitudes.to(weight))
        kept = torch.where(self.unified().to(weight.device), unified, weight)
        return torch.where(self.mask().to(weight.device), kept, torch.zeros_like(kept))

    def project(self, weight: Tensor) -> Tensor:
        """Return the nearest weight that obeys the pattern, in the Euclidean norm.

        Zero blocks become 0, unified ones sign(w) times the mean of |w|.
        """
        return self.with_magnitudes(weight, self.magnitudes(weight))

    def obeyed(self, weight: Tensor) -> bool:
        """Say whether a weight has exact zeros and exactly one magnitude in each unified block."""
        if bool((weight[~self.mask().to(weight.device)] != 0).any()):
            return False
        largest = self.partition.blocks(weight.abs()).amax((-3, -2, -1))
        unified = self.unified().to(weight.device)
        return bool((weight.abs() == self.partition.spread(largest))[unified].all())
