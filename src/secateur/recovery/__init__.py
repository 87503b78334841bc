"""Closed-form repair of what pruning took away."""

from .least_squares import RIDGES, Moments, choose_ridge, mean_squared_error, ridge
from .one_pass import OnePass
from .protocol import Recovery
from .sequential import Sequential

__all__ = [
    "RIDGES",
    "Moments",
    "OnePass",
    "Recovery",
    "Sequential",
    "choose_ridge",
    "mean_squared_error",
    "ridge",
]
