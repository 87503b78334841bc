"""Repair of what pruning took away: in closed form, by label-free distillation, by fine-tuning."""

from .compensate import Compensate
from .distill import Distill
from .finetune import distillation_loss, finetune
from .least_squares import RIDGES, Moments, choose_ridge, mean_squared_error, ridge
from .one_pass import OnePass
from .protocol import Recovery
from .sequential import Sequential

__all__ = [
    "RIDGES",
    "Compensate",
    "Distill",
    "Moments",
    "OnePass",
    "Recovery",
    "Sequential",
    "choose_ridge",
    "distillation_loss",
    "finetune",
    "mean_squared_error",
    "ridge",
]
