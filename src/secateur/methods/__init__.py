"""The methods, one file each."""

from .activation import ActivationMagnitude, Fluctuation
from .baselines import BatchNormScale, Magnitude, Random
from .block_costs import Criterion, OutputError, WeightError
from .blockable import SKIPPED, Blockable, Place, Skip, blockable
from .counted import Counted, counted
from .microstructure import AcrossLayers, EachLayer, MicroStructured, Shares, Spread
from .orders import ZCA, Conditional, Output, Pivot, Variance, Weights
from .protocol import Method
from .ranking import Order, Ranking, Reader
from .snp import SNP
from .taylor import Taylor

__all__ = [
    "SKIPPED",
    "SNP",
    "ZCA",
    "AcrossLayers",
    "ActivationMagnitude",
    "BatchNormScale",
    "Blockable",
    "Conditional",
    "Counted",
    "Criterion",
    "EachLayer",
    "Fluctuation",
    "Magnitude",
    "Method",
    "MicroStructured",
    "Order",
    "Output",
    "OutputError",
    "Pivot",
    "Place",
    "Random",
    "Ranking",
    "Reader",
    "Shares",
    "Skip",
    "Spread",
    "Taylor",
    "Variance",
    "WeightError",
    "Weights",
    "blockable",
    "counted",
]
