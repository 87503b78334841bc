"""How much may stay, and which units that is."""

from .allocation import Allocation, LossPerCost, Standardised, Threshold, Uniform
from .budget import Budget
from .bundle import Ranked, remaining
from .constraints import Constraints
from .cost import CostModel
from .limits import Limits
from .select import out_of_reach, select, smallest

__all__ = [
    "Allocation",
    "Budget",
    "Constraints",
    "CostModel",
    "Limits",
    "LossPerCost",
    "Ranked",
    "Standardised",
    "Threshold",
    "Uniform",
    "out_of_reach",
    "remaining",
    "select",
    "smallest",
]
