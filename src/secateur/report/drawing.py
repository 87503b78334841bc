"""Charts as plain data, and where their parts go; the template `chart.html` makes SVG of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["SMALL", "WIDE", "Axis", "Chart", "Frame", "Line", "Mark", "Point", "ticks"]

GAP = 9  # between a point and its label
CHARACTER = 6.8  # mean width of a label's character

Point = tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """The size of a drawing, and the room around its axes."""

    name: str  # its style
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


WIDE = Frame("plot", 360, 236, 42, 12, 24, 40)
SMALL = Frame("spectrum", 176, 104, 34, 6, 6, 18)


@dataclass(frozen=True)
class Axis:
    """A range of values, linear or logarithmic, with the ticks that are written."""

    title: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    @staticmethod
    def over(
        values: Sequence[float], title: str, text: Callable[[float], str], *, zero: bool = False
    ) -> Axis:
        """Return an axis that holds all values, with a margin and round ticks; from zero if asked."""
        low, high = min([*values, 0.0] if zero else values), max(values)
        margin = 0.08 * (max(high - low, 1e-3 * abs(high)) or 1.0)
        low, high = low if zero else low - margin, high + margin
        return Axis(title, low, high, [(value, text(value)) for value in ticks(low, high)])

    def place(self, value: float) -> float:
        """Return where a value lies between the ends, 0 to 1; what is below a logarithmic axis lies at its low end."""
        if not self.log:
            return (value - self.low) / (self.high - self.low)
        return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)


@dataclass(frozen=True)
class Mark:
    """A point with a label (perhaps empty), words to hover for, and the range of its middle half if it was timed."""

    x: float
    y: float
    label: str
    title: str
    kind: str  # its style: dense, cut or final
    spread: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """A line through points."""

    kind: str  # its style
    points: Sequence[Point]


@dataclass(frozen=True)
class Chart:
    """Points and lines between two axes, with a caption and words below it; what lies right of `gone` is shaded."""

    caption: str
    title: str
    x: Axis
    y: Axis
    marks: Sequence[Mark]
    lines: Sequence[Line]
    gone: float | None = None
    words: tuple[str, ...] = ()
    frame: Frame = WIDE

    def at(self, x: float, y: float) -> Point:
        """Return where two values are drawn."""
        f = self.frame
        inner, high = f.width - f.left - f.right, f.height - f.top - f.bottom
        return round(f.left + self.x.place(x) * inner, 1), round(f.top + (1 - self.y.place(y)) * high, 1)

    def drawn(self) -> list[tuple[str, list[Point]]]:
        """Return the style and the way of every line, the spreads of points among them."""
        spreads = [Line("spread", [(x, mark.y) for x in mark.spread]) for mark in self.marks if mark.spread]
        return [(line.kind, [self.at(*point) for point in line.points]) for line in (*self.lines, *spreads)]

    def labels(self) -> list[tuple[str, Point]]:
        """Return each label beside its point, where it covers least of other labels, points and lines."""
        points = [self.at(mark.x, mark.y) for mark in self.marks]
        taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]  # left, top, right, bottom
        for (a, b), (c, d) in (pair for _, way in self.drawn() for pair in pairwise(way)):
            along = [(a + n / 24 * (c - a), b + n / 24 * (d - b)) for n in range(25)]
            taken += [(x, y, x, y) for x, y in along]
        edge, floor = self.frame.width, self.frame.height - self.frame.bottom

        def covered(box: tuple[float, float, float, float]) -> int:
            left, top, right, bottom = box
            outside = left < 0 or right > edge or top < 0 or bottom > floor
            met = [x <= right and left <= z and y <= bottom and top <= w for x, y, z, w in taken]
            return 1000 * outside + sum(met)

        placed = []
        for label, (x, y) in ((m.label, point) for m, point in zip(self.marks, points) if m.label):
            width = CHARACTER * len(label)
            centred = min(max(x - width / 2, 0), max(edge - width, 0))
            starts, bases = (x + GAP, x - GAP - width, centred), (3.5, -GAP, GAP + 8, -24, 32)
            best = min(((s, y + b - 9, s + width, y + b + 3) for b in bases for s in starts), key=covered)
            taken.append(best)
            placed.append((label, (round(best[0], 1), round(best[1] + 9, 1))))
        return placed

    def fitting(self, title: str) -> str:
        """Return as much of an axis's title as there is room for."""
        most = int(self.frame.width / CHARACTER)
        return title if len(title) <= most else f"{title[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers within a range.

    >>> ticks(0, 43)
    [0.0, 10.0, 20.0, 30.0, 40.0]
    """
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - rough))
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]
