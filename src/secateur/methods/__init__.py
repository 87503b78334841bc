"""The methods, one file each."""

from .activation import ActivationMagnitude, Fluctuation
from .admm import ADMM, Residual
from .baselines import BatchNormScale, Magnitude, Random
from .block_costs import Criterion, OutputError, WeightError
from .gradual import GradualMagnitude
from .irrelevance import Fading, GammaSchedule, IrrelevanceDecay, Steady, WeightDecay
from .lobster import Lobster
from .microstructure import AcrossLayers, EachLayer, MicroStructured, Shares, Spread
from .nn_relief import NNRelief, PivotRule, Propagation
from .orders import ZCA, Conditional, Output, Pivot, Variance, Weights
from .protocol import Method
from .ranking import Order, Ranking, Reader
from .snp import SNP
from .taylor import Taylor

__all__ = [
    "ADMM",
    "SNP",
    "ZCA",
    "AcrossLayers",
    "ActivationMagnitude",
    "BatchNormScale",
    "Conditional",
    "Criterion",
    "EachLayer",
    "Fading",
    "Fluctuation",
    "GammaSchedule",
    "GradualMagnitude",
    "IrrelevanceDecay",
    "Lobster",
    "Magnitude",
    "Method",
    "MicroStructured",
    "NNRelief",
    "Order",
    "Output",
    "OutputError",
    "Pivot",
    "PivotRule",
    "Propagation",
    "Random",
    "Ranking",
    "Reader",
    "Residual",
    "Shares",
    "Spread",
    "Steady",
    "Taylor",
    "Variance",
    "WeightDecay",
    "WeightError",
    "Weights",
]
