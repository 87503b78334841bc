"""Tables: activations that are no clamp, from a rescaled byte to the output's byte."""

from __future__ import annotations

import torch
from torch import Tensor

from ..dense import ACTIVATIONS
from ..packing import Activation
from .levels import Levels

__all__ = ["TABLED", "activation_table", "table_of"]

TABLED = frozenset((Activation.SILU, Activation.GELU, Activation.GELU_TANH, Activation.HARDSWISH))
"""Activations that go through a table."""

FAR = 20.0  # below minus this all of them are 0


def activation_table(activation: Activation, y: Levels) -> tuple[Levels, Tensor]:
    """Return the levels of a sum in front of an activation, and the output's level, uint8 (256,), for each of them.

    The sum's 256 levels are spread over those reals for which the output is not the same: from where the activation
    leaves 0 for good to where the output's largest level is reached.
    """
    grid = torch.linspace(-FAR, 0, 20001, dtype=torch.float64)
    moved = (_levels(ACTIVATIONS[activation](grid), y) != y.zero).nonzero()
    low = float(grid[max(int(moved[0]) - 1, 0)]) if len(moved) else 0.0
    high = _where(activation, max(y.reals[1], y.scale))
    zero = min(round(-low * 255 / (high - low)), 254)
    pre = Levels(max(high / (255 - zero), -low / max(zero, 1)), zero)  # both ends are reached
    reals = (torch.arange(256, dtype=torch.float64) - pre.zero) * pre.scale
    return pre, _levels(ACTIVATIONS[activation](reals), y)


def table_of(x: Levels, y: Levels, activation: Activation = Activation.NONE) -> Tensor:
    """Return the level of `y`, uint8 (256,), for each level of `x`, with an activation in between."""
    reals = (torch.arange(256, dtype=torch.float64) - x.zero) * x.scale
    return _levels(ACTIVATIONS[activation](reals), y)


def _levels(reals: Tensor, y: Levels) -> Tensor:
    return ((reals / y.scale).round() + y.zero).clamp(0, y.most).to(torch.uint8)


def _where(activation: Activation, wanted: float) -> float:
    """Return where an activation, which grows with a positive input, reaches a positive value."""
    low, high = 0.0, wanted + FAR
    for _ in range(60):
        middle = (low + high) / 2
        if float(ACTIVATIONS[activation](torch.tensor(middle, dtype=torch.float64))) < wanted:
            low = middle
        else:
            high = middle
    return high
