"""One small file for each family of operators; importing this package fills the table."""

from secateur.graph.rules import (
    attention,
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
from secateur.graph.rules.registry import RULES, Result, rule

CONTRACTIONS = convolution.OPERATORS | linear.OPERATORS | attention.OPERATORS
"""Operators that sum products over a dimension, and so make new ones."""

__all__ = [
    "CONTRACTIONS",
    "RULES",
    "Result",
    "attention",
    "convolution",
    "factory",
    "join",
    "linear",
    "move",
    "normalisation",
    "pointwise",
    "pooling",
    "reduction",
    "rule",
    "split",
]
