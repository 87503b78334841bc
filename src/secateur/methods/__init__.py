"""The methods, one file each."""

from .activation import ActivationMagnitude, Fluctuation
from .admm import ADMM, Residual
from .baselines import BatchNormScale, Magnitude, Random
from .block_costs import Criterion, OutputError, WeightError
from .dead_units import DeadUnits
from .gradual import GradualMagnitude
from .irrelevance import Fading, GammaSchedule, IrrelevanceDecay, Steady, WeightDecay
from .kinds import OfBlocks, OfUnits, OfWeights
from .lobster import Lobster
from .microstructure import MicroStructured
from .nn_relief import Allocation, NNRelief, PivotRule, Propagation
from .orders import ZCA, Conditional, Output, Pivot, Variance, Weights
from .protocol import Draft, Evidence, Method, Needs
from .ranking import Order, Ranking, Reader, ranked
from .snp import SNP
from .taylor import Taylor

__all__ = [
    "ADMM",
    "SNP",
    "ZCA",
    "ActivationMagnitude",
    "Allocation",
    "BatchNormScale",
    "Conditional",
    "Criterion",
    "DeadUnits",
    "Draft",
    "Evidence",
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
    "Needs",
    "OfBlocks",
    "OfUnits",
    "OfWeights",
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
    "Steady",
    "Taylor",
    "Variance",
    "WeightDecay",
    "WeightError",
    "Weights",
    "ranked",
]
