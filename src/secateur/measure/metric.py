"""What a score means: its name, which way is better, and how people write it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from secateur.ground.errors import MetricError

__all__ = ["Metric", "MetricFormat"]

DIGITS = 4  # significant ones, of plain numbers


class MetricFormat(StrEnum):
    """How values are written."""

    PERCENT = "percent"
    """Shares in 0..1, written as per cent; differences in percentage points."""
    NUMBER = "number"
    """Any number, written with four significant digits."""


@dataclass(frozen=True)
class Metric:
    """What ``evaluate`` returns: by default an accuracy, a share in 0..1 of which more is better.

    Raises:
        MetricError: the name is empty, or the format is not a `MetricFormat`.

    >>> Metric().text(0.9322), Metric().change(0.9322, 0.9376)
    ('93.22 %', '-0.54 points')
    >>> perplexity = Metric("perplexity", higher_is_better=False, format=MetricFormat.NUMBER)
    >>> perplexity.text(15.331), perplexity.change(17.68, 15.331)
    ('15.33', '+2.349')
    """

    name: str = "accuracy"
    higher_is_better: bool = True
    format: MetricFormat = MetricFormat.PERCENT

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise MetricError(f"Metric name={self.name!r:.60}: give it a name, as Metric('accuracy').")
        if not isinstance(self.format, MetricFormat):
            raise MetricError(
                f"Metric format={self.format!r:.60}: it must be MetricFormat.PERCENT (shares in 0..1) or "
                "MetricFormat.NUMBER."
            )

    def text(self, value: float) -> str:
        """Return a value as people read it."""
        return f"{100 * value:.2f} %" if self.format is MetricFormat.PERCENT else _number(value)

    def change(self, new: float, old: float) -> str:
        """Return the signed difference of two values: percentage points of shares, else in the metric's own unit."""
        if self.format is MetricFormat.PERCENT:
            return f"{100 * (new - old):+.2f} points"
        return _number(new - old, sign="+")

    def checked(self, value: Any) -> float:
        """Return what ``evaluate`` returned as a float: an int, a float, a NumPy number or a 0-dim tensor.

        Raises:
            MetricError: it is no single number, not finite, or no share in 0..1 where the format is per cent.

        >>> import torch
        >>> Metric().checked(torch.tensor(0.5))
        0.5
        """
        number = value.item() if isinstance(value, Tensor | np.ndarray) and value.ndim == 0 else value
        if isinstance(number, bool) or not isinstance(number, Real):
            raise MetricError(f"evaluate returned {_described(value)}: return one number ({self.name}).")
        number = float(number)
        if not math.isfinite(number):
            raise MetricError(
                f"evaluate returned {number}, which is not finite: check the data and the outputs it scores."
            )
        # float32 means of ones may end a little above one.
        if self.format is MetricFormat.PERCENT and not -1e-5 <= number <= 1 + 1e-5:
            raise MetricError(
                f"evaluate returned {number:.6g}, which is no share ({self.name}): return one in 0..1, or say what it "
                "is: metric=Metric('perplexity', higher_is_better=False, format=MetricFormat.NUMBER)."
            )
        return number


def _number(value: float, sign: str = "") -> str:
    size = abs(value)
    if size == 0:
        return "0"
    if not 1e-3 <= size < 1e12:
        return f"{value:{sign}.{DIGITS - 1}e}"
    return f"{value:{sign},.{max(DIGITS - 1 - math.floor(math.log10(size)), 0)}f}"


def _described(value: object) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    return f"{value!r:.60} ({type(value).__name__})"
