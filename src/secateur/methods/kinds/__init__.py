"""What methods of one kind have in common: the way from a case to a draft."""

from .blocks import OfBlocks
from .units import OfUnits
from .weights import OfWeights

__all__ = ["OfBlocks", "OfUnits", "OfWeights"]
