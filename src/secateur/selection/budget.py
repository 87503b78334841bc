"""Budgets: how much of a model may stay, always with a unit."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Integral, Real

from secateur.ground.errors import BudgetError
from secateur.ground.keywords import keywords

__all__ = ["Budget"]

_SHARES = ("latency", "variance")  # never more than 1


@keywords(flops="macs", parameters="params", size="bytes", time="latency_ms", milliseconds="latency_ms")
@dataclass(frozen=True, repr=False)
class Budget:
    """What may stay of a model: exactly one of the fields is given.

    ``macs``, ``params`` and ``bytes`` (of the safetensors file): a share of the dense model where at most 1 (0.5
    keeps half), else an absolute number, of MACs for one sample. ``latency``: a share of the dense model's time,
    above 0 and at most 1; ``latency_ms``: milliseconds for the example inputs, which may be below 1, hence the name
    of its own. ``variance``: the cumulative-variance threshold of SNP, one for all groups, above 0 and at most 1;
    nothing else decides the size then. ``weights``: for methods that train, how many entries of all parameters,
    biases and norms included, are not masked.

    Raises:
        BudgetError: none or several are given, or a value is out of range.
        UsageError: a keyword is not one of these.

    >>> Budget(macs=0.5)
    Budget(macs=0.5)
    >>> str(Budget(params=100_000)), str(Budget(latency_ms=0.8))
    ('at most 100,000 params', 'at most 0.8 ms')
    """

    macs: float | None = None
    params: float | None = None
    variance: float | None = None
    bytes: float | None = None
    latency: float | None = None
    latency_ms: float | None = None
    weights: float | None = None

    def __post_init__(self) -> None:
        given = [f.name for f in fields(self) if getattr(self, f.name) is not None]
        if len(given) != 1:
            what = f"not {' and '.join(given)} together" if given else "none was given"
            names = ", ".join(f.name for f in fields(self))
            raise BudgetError(f"A budget names exactly one of {names}; {what}.")
        (unit,) = given
        value = getattr(self, unit)
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise BudgetError(f"Budget {unit}={value!r} is out of range: it must be a finite number above 0.")
        value = int(value) if isinstance(value, Integral) else float(value)  # numpy has numbers of its own
        object.__setattr__(self, unit, value)
        if unit in _SHARES and value > 1:
            hint = f"; for milliseconds write latency_ms={value!r}" if unit == "latency" else ""
            raise BudgetError(
                f"Budget {unit}={value!r} is out of range: a share of {unit} is at most 1{hint}."
            )
        if unit != "latency_ms" and value > 1 and value != int(value):
            raise BudgetError(
                f"Budget {unit}={value!r} is neither a share (at most 1) nor a whole number: "
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

    @property
    def timed(self) -> bool:
        """Whether it takes a clock to tell that it is met."""
        return self.unit in ("latency", "latency_ms")

    @property
    def is_share(self) -> bool:
        """Whether the number is a share of the dense model."""
        return self.unit != "latency_ms" and self.value <= 1

    def absolute(self, dense: float) -> float:
        """Return the most that may stay, in units, of a model that has `dense` of them."""
        return self.value * dense if self.is_share else self.value

    def __repr__(self) -> str:
        return f"Budget({self.unit}={getattr(self, self.unit)!r})"

    def __str__(self) -> str:
        if self.unit == "variance":
            return f"{self.value:.2%} of the variance of every group"
        if self.is_share:
            return f"{self.value:.1%} of {'the ' if self.timed else ''}{self.unit}"
        return f"at most {self.value:g} ms" if self.timed else f"at most {self.value:,.0f} {self.unit}"
