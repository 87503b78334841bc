"""The methods, one file each."""

from .activation import ActivationMagnitude, Fluctuation
from .baselines import BatchNormScale, Magnitude, Random
from .orders import ZCA, Conditional, Output, Pivot, Variance, Weights
from .protocol import Method
from .ranking import Order, Ranking, Reader
from .snp import SNP
from .taylor import Taylor

__all__ = [
    "SNP",
    "ZCA",
    "ActivationMagnitude",
    "BatchNormScale",
    "Conditional",
    "Fluctuation",
    "Magnitude",
    "Method",
    "Order",
    "Output",
    "Pivot",
    "Random",
    "Ranking",
    "Reader",
    "Taylor",
    "Variance",
    "Weights",
]
