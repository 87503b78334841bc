"""Pruning while a network trains: masks, and methods that work through the optimiser's own step hooks."""

from .crop import Global, LayerWise, Scope
from .decay import Fading, GammaSchedule, IrrelevanceDecay, Steady, WeightDecay
from .gradual import GradualMagnitude
from .hooks import Attached, Rule, Step, attach
from .lobster import Lobster
from .masks import Masks
from .nn_relief import NNRelief, Pivot, Propagation
from .protocol import Attachment, TrainingMethod

__all__ = [
    "Attached",
    "Attachment",
    "Fading",
    "GammaSchedule",
    "Global",
    "GradualMagnitude",
    "IrrelevanceDecay",
    "LayerWise",
    "Lobster",
    "Masks",
    "NNRelief",
    "Pivot",
    "Propagation",
    "Rule",
    "Scope",
    "Steady",
    "Step",
    "TrainingMethod",
    "WeightDecay",
    "attach",
]
