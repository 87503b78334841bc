"""What a pattern costs to store and to compute, before any coding and on no particular machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from .pattern import KEEP, UNIFY, BlockPattern

__all__ = ["Cost", "cost"]


@dataclass(frozen=True)
class Cost:
    """Bits to store a weight, and multiplications for one column of its matrix product.

    ``bits`` has two bits for the state of each block, ``coded_bits`` the entropy of the states instead. Additions are
    left as they are by unification.
    """

    bits: float
    coded_bits: float
    multiplications: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.bits + other.bits,
            self.coded_bits + other.coded_bits,
            self.multiplications + other.multiplications,
        )

    def times(self, positions: int) -> Cost:
        """Return the cost where the product is made at so many positions: the weight is stored once."""
        return Cost(self.bits, self.coded_bits, self.multiplications * positions)

    @staticmethod
    def dense(weights: int, bits: int = 32) -> Cost:
        """Return the cost of a weight without a pattern.

        >>> Cost.dense(10)
        Cost(bits=320, coded_bits=320, multiplications=10)
        """
        return Cost(weights * bits, weights * bits, weights)

    @staticmethod
    def total(costs: Iterable[Cost]) -> Cost:
        """Return the sum of costs."""
        return sum(costs, Cost(0, 0, 0))


def cost(pattern: BlockPattern, bits: int = 32) -> Cost:
    """Return the cost of a weight under a pattern.

    A block of n weights takes ``bits * n`` if it is kept, ``bits + n`` (one magnitude and the signs) if it is unified,
    nothing if it is zero, and its state. Of its multiplications, rows x columns, a unified block leaves the lesser
    of the two: inputs or outputs are scaled once.

    >>> from secateur.blocks import Block, Partition
    >>> unified = torch.full((1, 4, 4, 1), UNIFY, dtype=torch.int8)
    >>> cost(BlockPattern(Partition(Block(4, 4), (16, 16)), unified)).bits
    800.0
    """
    partition, states = pattern.partition, pattern.states
    entries = partition.entries()
    rows, columns, taps = partition.extents()
    inputs = columns[:, None] * taps
    # The rows of a depthwise convolution read inputs of their own: only outputs can be scaled once.
    once = rows[:, None, None].expand(-1, *inputs.shape)
    if not partition.merged:
        once = torch.minimum(once, inputs)
    kept, unified = states == KEEP, states == UNIFY
    values = float(bits * entries[kept].sum() + (bits + entries[unified]).sum())
    share = torch.bincount(states.flatten().long(), minlength=3).double() / partition.count
    entropy = float(-(share * share.clamp_min(1e-300).log2()).sum())
    return Cost(
        values + 2 * partition.count,
        values + entropy * partition.count,
        int(entries[kept].sum() + once.expand(states.shape)[unified].sum()),
    )
