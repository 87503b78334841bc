"""Micro-structures: weights cut into blocks that are kept, zero, or unified (one magnitude, signs kept)."""

from .accounting import Cost, cost
from .assignment import Assignment, Costs, Joint, PruneFirst
from .block import PRESETS, Block, Reshape
from .partition import Partition
from .pattern import KEEP, UNIFY, ZERO, BlockPattern
from .projection import block_costs, choose, project

__all__ = [
    "KEEP",
    "PRESETS",
    "UNIFY",
    "ZERO",
    "Assignment",
    "Block",
    "BlockPattern",
    "Cost",
    "Costs",
    "Joint",
    "Partition",
    "PruneFirst",
    "Reshape",
    "block_costs",
    "choose",
    "cost",
    "project",
]
