"""Pruning while a network trains: masks, hooks in the optimiser's own step, and the loop around them."""

from .crop import Global, LayerWise, Scope
from .finetune import distillation_loss, finetune
from .hooks import Attached, Rule, Step, attach
from .log import Row
from .loop import Trained, train
from .masks import Masks
from .optimizers import SGD, Adam, AdamW
from .options import Bound, Checkpoints, Crops, Teacher, Training, Validation
from .protocol import Attachment, TrainingMethod
from .schedules import Constant, Cosine, MultiStep, OneCycle, Schedule
from .split import hold_out

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Attached",
    "Attachment",
    "Bound",
    "Checkpoints",
    "Constant",
    "Cosine",
    "Crops",
    "Global",
    "LayerWise",
    "Masks",
    "MultiStep",
    "OneCycle",
    "Row",
    "Rule",
    "Schedule",
    "Scope",
    "Step",
    "Teacher",
    "Trained",
    "Training",
    "TrainingMethod",
    "Validation",
    "attach",
    "distillation_loss",
    "finetune",
    "hold_out",
    "train",
]
