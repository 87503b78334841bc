"""Numbers as people read them, each with its unit."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["Text", "change", "exact", "kilo", "milliseconds", "percent", "seconds", "size", "small", "tick"]

Text = Callable[[float], str]
_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_THIN = "\N{NARROW NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def kilo(value: float, unit: str = "") -> str:
    """Return three significant digits with an SI prefix.

    >>> kilo(40_812_544, "MACs").replace("\\u202f", " ")
    '40.8 MMACs'
    >>> kilo(999.6)
    '1.00\\u202fk'
    """
    for step, prefix in _STEPS:
        if value >= 0.9995 * step:
            return f"{_three(value / step)}{_THIN}{prefix}{unit}"
    return f"{value:.0f}{_THIN}{unit}" if unit else f"{value:.0f}"


def size(count: float) -> str:
    """Return a number of bytes in decimal units: 1 kB is 1,000 bytes."""
    return kilo(count, "B")


def exact(value: float) -> str:
    """Return a whole number with thousands apart."""
    return f"{value:,.0f}".replace(",", _THIN)


def milliseconds(value: float) -> str:
    """Return three significant digits of a time in ms, with the unit."""
    return f"{_three(value)}{_THIN}ms"


def seconds(value: float) -> str:
    """Return a duration.

    >>> seconds(90.95).replace("\\u202f", " "), seconds(4000).replace("\\u202f", " ")
    ('91.0 s', '1 h 6 min')
    """
    if value < 100:
        return f"{value:.1f}{_THIN}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}{_THIN}min {rest}{_THIN}s"
    return f"{minutes // 60}{_THIN}h {minutes % 60}{_THIN}min"


def percent(share: float, digits: int = 2) -> str:
    """Return a share as per cent."""
    return f"{100 * share:.{digits}f}{_THIN}%".replace("-", _MINUS)


def change(new: float, old: float) -> str:
    """Return the difference of two shares in percentage points, signed."""
    return f"{100 * (new - old):+.2f} points".replace("-", _MINUS)


def small(share: float) -> str:
    """Return a share of any magnitude as per cent with two significant digits.

    >>> [small(s).replace("\u202f", " ") for s in (0, 1, 0.014, 0.00038)]
    ['0 %', '100 %', '1.4 %', '0.038 %']
    """
    if share == 0 or share >= 0.1:
        return percent(share, 0)
    digits = 1 - math.floor(math.log10(100 * share))
    return percent(share, digits)


def tick(value: float) -> str:
    """Return a round number with an SI prefix.

    >>> tick(2_500_000).replace("\u202f", " ")
    '2.5 M'
    """
    for step, prefix in _STEPS:
        if value >= step:
            return f"{value / step:g}{_THIN}{prefix}"
    return f"{value:g}"


def _three(value: float) -> str:
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{digits}f}".replace(",", _THIN)
