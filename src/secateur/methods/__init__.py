"""The methods, one file each."""

from .baselines import Magnitude, Random
from .orders import ZCA, Conditional, Output, Pivot, Variance, Weights
from .protocol import Method
from .ranking import Order, Ranking, Reader
from .snp import SNP

__all__ = [
    "SNP",
    "ZCA",
    "Conditional",
    "Magnitude",
    "Method",
    "Order",
    "Output",
    "Pivot",
    "Random",
    "Ranking",
    "Reader",
    "Variance",
    "Weights",
]
