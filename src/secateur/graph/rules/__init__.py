"""One small file for each family of operators; importing this package fills the table."""

from . import (
    attention,
    choose,
    convolution,
    factory,
    join,
    linear,
    move,
    normalisation,
    pointwise,
    pooling,
    reduction,
    split,
)
from .registry import RULES, Result, blank, rule

PRODUCTS = convolution.OPERATORS | linear.OPERATORS
"""Operators that multiply by a weight, where one of their operands is one."""

CONTRACTIONS = PRODUCTS | attention.OPERATORS
"""Operators that sum products over a dimension, and so make new ones."""

_FAMILIES = (
    attention, choose, convolution, factory, join, linear, move, normalisation, pointwise, pooling, reduction, split,
)  # fmt: skip

__all__ = ["CONTRACTIONS", "PRODUCTS", "RULES", "Result", "blank", "rule"]
