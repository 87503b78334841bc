"""How much may stay, and which units that is."""

from .allocation import Allocation, LossPerCost, Threshold, Uniform
from .budget import Budget
from .select import Constraints, Ranked, select

__all__ = ["Allocation", "Budget", "Constraints", "LossPerCost", "Ranked", "Threshold", "Uniform", "select"]
