"""The exact Euclidean projection of a weight onto patterns with given shares."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from secateur.ground.errors import StructureError

from .assignment import Assignment, Costs, Joint
from .partition import Partition
from .pattern import KEEP, UNIFY, ZERO, BlockPattern

__all__ = ["block_costs", "check_shares", "choose", "project"]


def check_shares(zero: float, unify: float) -> None:
    """Check shares of the blocks that are to become zero and unified.

    Raises:
        StructureError: one is not within 0 and 1, or their sum is above 1.
    """
    for name, value in (("zero", zero), ("unify", unify)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not 0 <= value <= 1:
            raise StructureError(
                f"{name}={value!r} is out of range: it is a share of all blocks, from 0 to 1."
            )
    if zero + unify > 1 + 1e-12:
        raise StructureError(
            f"zero={zero!r} and unify={unify!r} are more than all blocks together: both are shares of all blocks "
            f"(half of the rest is unify={(1 - zero) / 2:.3g})."
        )


def block_costs(partition: Partition, weight: Tensor) -> Costs:
    """Return the squared errors of zeroing, ``sum w^2``, and of unifying, ``n Var|w|``, of each block, float64."""
    sizes = partition.blocks(weight.detach().double().abs()).flatten(4)
    total, energy = sizes.sum(-1), (sizes**2).sum(-1)
    mean = total / partition.entries()
    # About the mean: the difference of two large sums would lose what is small.
    inside = partition.blocks(torch.ones(partition.shape, dtype=torch.bool)).flatten(4)
    unify = (((sizes - mean[..., None]) ** 2) * inside).sum(-1)
    return Costs(energy.flatten(), torch.minimum(unify, energy).flatten(), energy.flatten())


def choose(
    partition: Partition,
    costs: Costs,
    zero: float,
    unify: float = 0.0,
    assignment: Assignment | None = None,
    within: BlockPattern | None = None,
) -> BlockPattern:
    """Return the pattern with these shares of zero and unified blocks, by cost; the joint optimum by default.

    Blocks that are not kept in `within` stay as they are there, and count.

    Raises:
        StructureError: a share is out of range, or `within` is of another partition or beyond the shares.
    """
    check_shares(zero, unify)
    states = torch.zeros(partition.count, dtype=torch.int8)
    zeros = math.floor(zero * partition.count + 0.5)
    unified = min(math.floor(unify * partition.count + 0.5), partition.count - zeros)
    if within is not None:
        if within.partition != partition:
            raise StructureError(
                f"The pattern to start from is one of {within.partition}, not of {partition}."
            )
        states = within.states.flatten().clone()
        zeros -= int((states == ZERO).sum())
        unified -= int((states == UNIFY).sum())
        if zeros < 0 or unified < 0:
            raise StructureError(
                f"The pattern to start from has more blocks changed than zero={zero!r} and unify={unify!r} allow."
            )
    free = states == KEEP
    part = Costs(costs.zero[free], costs.unify[free], costs.energy[free])
    states[free] = (assignment or Joint())(part, zeros, unified)
    return BlockPattern(partition, states.view(partition.grid))


def project(
    weight: Tensor,
    partition: Partition,
    zero: float,
    unify: float = 0.0,
    assignment: Assignment | None = None,
    within: BlockPattern | None = None,
) -> tuple[Tensor, BlockPattern]:
    """Return the nearest weight with these shares of zero and unified blocks, and its pattern.

    Raises:
        StructureError: as `choose`.

    >>> from secateur.blocks import Block
    >>> weight = torch.tensor([[0.1, 3.0, 2.0], [0.2, -1.0, 2.0]])
    >>> project(weight, Partition(Block(2, 1), (2, 3)), zero=1 / 3, unify=1 / 3)[0]
    tensor([[ 0.,  3.,  2.],
            [ 0., -1.,  2.]])
    """
    costs = block_costs(partition, weight.cpu())
    pattern = choose(partition, costs, zero, unify, assignment, within)
    return pattern.project(weight), pattern
