"""Limits: what a user does not let a method touch, and which widths she wants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from secateur.ground.errors import BudgetError
from secateur.ground.keywords import keywords
from secateur.ground.patterns import Pattern

__all__ = ["Limits"]


@keywords(ignore="exclude", ignored_layers="exclude", divisor="round_to", minimum="floor")
@dataclass(frozen=True)
class Limits:
    """Which layers lose no units, and which widths the others may have.

    `exclude` names layers that keep their outputs, by globs over module paths or by types. `keep` fixes layers' widths
    by such globs, as shares (at most 1) or as numbers of units: ``{"layer1.*": 0.75, "fc1": 64}``; the other layers
    make up for the budget. Every group keeps a multiple of `round_to` units and at least `floor`; with `uniform` all
    groups of one kind and size keep the same number, for servers that take no others. With `streams` residual streams
    lose units too, in all layers that add to them or read them at once.

    Raises:
        BudgetError: `round_to` or `floor` is below 1, a width is neither a share nor a number of units, or `exclude` is
            one text instead of several.

    >>> Limits(exclude=("fc",), round_to=8).floor
    1
    """

    exclude: tuple[Pattern, ...] = ()
    keep: Mapping[str, float] = field(default_factory=dict)
    round_to: int = 1
    floor: int = 1
    uniform: bool = False
    streams: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.exclude, tuple | list):
            raise BudgetError(
                f"exclude={self.exclude!r} is no tuple of patterns: write exclude=({self.exclude!r},)."
            )
        if self.round_to < 1 or self.floor < 1:
            raise BudgetError(f"round_to={self.round_to} and floor={self.floor} must be at least 1.")
        for glob, value in self.keep.items():
            check_width(glob, value)


def check_width(glob: str, value: float) -> None:
    """Check what `keep` says of the layers of a glob.

    Raises:
        BudgetError: it is neither a share above 0 nor a number of units.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf or (value > 1 and value != int(value)):
        raise BudgetError(
            f"keep: {glob!r}: {value!r} is neither a share of the units (above 0, at most 1) nor a number of them."
        )
