"""Repair of what pruning took away: in closed form, or by label-free distillation."""

from .augment import Augment, Pictures
from .compensate import Compensate
from .distill import Distill
from .joint import Joint
from .least_squares import RIDGES, Moments, choose_ridge, mean_squared_error, ridge
from .one_pass import OnePass
from .protocol import Recovery
from .sequential import Sequential

__all__ = [
    "RIDGES",
    "Augment",
    "Compensate",
    "Distill",
    "Joint",
    "Moments",
    "OnePass",
    "Pictures",
    "Recovery",
    "Sequential",
    "choose_ridge",
    "mean_squared_error",
    "ridge",
]
