"""Pruning while a network trains: masks, methods at work in the optimiser's own step, and the loop around them."""

from .admm import ADMM, Residual
from .crop import Global, LayerWise, Scope
from .decay import Fading, GammaSchedule, IrrelevanceDecay, Steady, WeightDecay
from .describe import describe
from .gradual import GradualMagnitude
from .hooks import Attached, Rule, Step, attach
from .lobster import Lobster
from .log import Row
from .loop import Trained, train
from .masks import Masks
from .nn_relief import NNRelief, Pivot, Propagation
from .options import Bound, Checkpoints, Crops, Teacher, Training, Validation
from .protocol import Attachment, TrainingMethod
from .schedules import Constant, Cosine, MultiStep, OneCycle, Schedule
from .split import hold_out

__all__ = [
    "ADMM",
    "Attached",
    "Attachment",
    "Bound",
    "Checkpoints",
    "Constant",
    "Cosine",
    "Crops",
    "Fading",
    "GammaSchedule",
    "Global",
    "GradualMagnitude",
    "IrrelevanceDecay",
    "LayerWise",
    "Lobster",
    "Masks",
    "MultiStep",
    "NNRelief",
    "OneCycle",
    "Pivot",
    "Propagation",
    "Residual",
    "Row",
    "Rule",
    "Schedule",
    "Scope",
    "Steady",
    "Step",
    "Teacher",
    "Trained",
    "Training",
    "TrainingMethod",
    "Validation",
    "WeightDecay",
    "attach",
    "describe",
    "hold_out",
    "train",
]
