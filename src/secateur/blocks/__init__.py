"""Micro-structures: weights cut into blocks that are kept, zero, or unified (one magnitude, signs kept)."""

from .accounting import Cost, cost
from .assignment import Assignment, Costs, Joint, PruneFirst
from .block import PRESETS, Block, Reshape
from .blockable import SKIPPED, Blockable, Place, Skip, blockable
from .counted import Counted, counted
from .held import Held
from .partition import Partition
from .pattern import KEEP, UNIFY, ZERO, BlockPattern
from .projection import block_costs, choose, project
from .spread import AcrossLayers, EachLayer, Shares, Spread

__all__ = [
    "KEEP",
    "PRESETS",
    "SKIPPED",
    "UNIFY",
    "ZERO",
    "AcrossLayers",
    "Assignment",
    "Block",
    "BlockPattern",
    "Blockable",
    "Cost",
    "Costs",
    "Counted",
    "EachLayer",
    "Held",
    "Joint",
    "Partition",
    "Place",
    "PruneFirst",
    "Reshape",
    "Shares",
    "Skip",
    "Spread",
    "block_costs",
    "blockable",
    "choose",
    "cost",
    "counted",
    "project",
]
