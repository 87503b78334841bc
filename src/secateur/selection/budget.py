"""Budgets: how much of a model may stay, always with a unit."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from secateur.errors import BudgetError

__all__ = ["Budget"]


@dataclass(frozen=True)
class Budget:
    """What may stay of a model: exactly one of the fields is given.

    ``macs`` and ``params``: a share of the dense model where at most 1 (0.5 keeps half), else an absolute number
    for one sample. ``variance``: the cumulative-variance threshold of SNP, one for all groups, above 0 and at
    most 1; nothing else decides the size then.

    Raises:
        BudgetError: none or several are given, or a value is out of range.

    >>> Budget(macs=0.5)
    Budget(macs=0.5, params=None, variance=None)
    >>> str(Budget(params=100_000))
    'at most 100,000 params'
    """

    macs: float | None = None
    params: float | None = None
    variance: float | None = None

    def __post_init__(self) -> None:
        given = [f.name for f in fields(self) if getattr(self, f.name) is not None]
        if len(given) != 1:
            what = f"not {' and '.join(given)} together" if given else "none was given"
            raise BudgetError(f"A budget names exactly one of macs, params, variance; {what}.")
        value = getattr(self, given[0])
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise BudgetError(
                f"Budget {given[0]}={value!r} is out of range: it must be a finite number above 0."
            )
        if given[0] == "variance" and value > 1:
            raise BudgetError(f"Budget variance={value!r} is out of range: a share of variance is at most 1.")
        if value > 1 and value != int(value):
            raise BudgetError(
                f"Budget {given[0]}={value!r} is neither a share (at most 1) nor a whole number: "
                f"write {value / 100 if value <= 100 else int(value)!r}?"
            )

    @property
    def unit(self) -> str:
        """The name of the field that is given."""
        return next(f.name for f in fields(self) if getattr(self, f.name) is not None)

    @property
    def value(self) -> float:
        """The number that is given."""
        return float(getattr(self, self.unit))

    def absolute(self, dense: int) -> float:
        """Return the most that may stay, in units, of a model that has `dense` of them."""
        return self.value * dense if self.value <= 1 else self.value

    def __str__(self) -> str:
        if self.unit == "variance":
            return f"{self.value:.2%} of the variance of every group"
        return (
            f"{self.value:.1%} of {self.unit}"
            if self.value <= 1
            else f"at most {self.value:,.0f} {self.unit}"
        )
