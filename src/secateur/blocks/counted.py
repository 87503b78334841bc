"""What patterns save in a whole network: bits to store and multiplications, counted, not measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from secateur.graph import Graph

from .accounting import Cost, cost
from .pattern import BlockPattern

__all__ = ["Counted", "counted"]


@dataclass(frozen=True)
class Counted:
    """Shares of a dense network of the same shapes, all parameters and layers included.

    ``stored_bits`` has two bits a block for its state, ``coded_bits`` the entropy of the states. ``operations`` are
    multiplications of one sample: not time, which only kernels that know the blocks can save.
    """

    stored_bits: float
    coded_bits: float
    operations: float


def counted(graph: Graph, parameters: Mapping[str, Tensor], patterns: Mapping[str, BlockPattern]) -> Counted:
    """Return what the patterns leave of a network's bits and multiplications.

    `parameters` are those of the traced model by canonical name: those without a pattern count in full.
    """
    whole = {name: Cost.dense(p.numel(), 8 * p.element_size()) for name, p in parameters.items()}
    left = whole | {name: cost(p, 8 * parameters[name].element_size()) for name, p in patterns.items()}
    stored, dense = Cost.total(left.values()), Cost.total(whole.values())
    after = before = 0
    for layer in graph.layers:
        if layer.weight in whole:
            positions = math.prod(layer.positions)
            before += whole[layer.weight].multiplications * positions
            after += left[layer.weight].multiplications * positions
    return Counted(stored.bits / dense.bits, stored.coded_bits / dense.bits, after / max(before, 1))
