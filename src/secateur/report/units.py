"""Numbers as people read them, each with its unit, in plain ASCII; `typeset` makes them fine for the page."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

__all__ = ["Text", "capital", "count", "kilo", "percent", "seconds", "small", "three", "tick", "typeset"]

Text = Callable[[float], str]
_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_UNIT = re.compile(r"(?<=\d) (?=(?:[kMGT]?B|[kMGT]|ms|s|h|min|%)(?!\w))")
_MINUS = re.compile(r"(?<![\w.,)-])-(?=\d)")


def typeset(text: str) -> str:
    """Return figures with a true minus, and a narrow space that does not break before each unit."""
    return _MINUS.sub("\N{MINUS SIGN}", _UNIT.sub("\N{NARROW NO-BREAK SPACE}", text))


def kilo(value: float, unit: str = "") -> str:
    """Return three significant digits with an SI prefix.

    >>> kilo(40_812_544), kilo(999.6), kilo(12, "B")
    ('40.8 M', '1.00 k', '12 B')
    """
    for step, prefix in _STEPS:
        if value >= 0.9995 * step:
            return f"{three(value / step)} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def seconds(value: float) -> str:
    """Return a duration.

    >>> seconds(90.95), seconds(4000)
    ('91.0 s', '1 h 6 min')
    """
    if value < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def percent(share: float, digits: int = 0) -> str:
    """Return a share as per cent."""
    return f"{100 * share:.{digits}f} %"


def small(share: float) -> str:
    """Return a share of any magnitude as per cent with two significant digits.

    >>> [small(s) for s in (0, 1, 0.014, 0.00038, 3e-12)]
    ['0 %', '100 %', '1.4 %', '0.038 %', '3.0e-10 %']
    """
    if 0 < share < 1e-6:
        return f"{100 * share:.1e} %"
    digits = 0 if share == 0 or share >= 0.1 else 1 - math.floor(math.log10(100 * share))
    return percent(share, digits)


def count(number: int, noun: str) -> str:
    """Return a number of things, their noun in the plural where there are several."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def capital(text: str) -> str:
    """Return text that begins with a capital letter; unlike `str.capitalize` it leaves the others."""
    return text[:1].upper() + text[1:]


def tick(value: float) -> str:
    """Return a round number with an SI prefix.

    >>> tick(2_500_000), tick(-0.25)
    ('2.5 M', '-0.25')
    """
    for step, prefix in _STEPS:
        if abs(value) >= step:
            return f"{value / step:g} {prefix}"
    return f"{value:g}"


def three(value: float) -> str:
    """Return three significant digits, or all before the point."""
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{digits}f}"
