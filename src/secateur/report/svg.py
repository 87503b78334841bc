"""Small static charts as inline SVG: text and colours come from the page's style sheet, titles are escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

__all__ = ["Axis", "Mark", "bar", "plot", "spectrum", "ticks"]

WIDTH, HEIGHT = 360, 236
LEFT, RIGHT, TOP, BOTTOM = 42, 12, 24, 40
GAP = 9  # between a point and its label
CHARACTER = 6.8  # mean width of a label's character

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Axis:
    """What an axis shows; `text` writes its ticks."""

    title: str
    text: Callable[[float], str]
    low: float
    high: float

    @staticmethod
    def over(
        values: Sequence[float], title: str, text: Callable[[float], str], *, zero: bool = False
    ) -> Axis:
        """Return an axis that holds all values, with a margin; from zero if asked."""
        low, high = min([*values, 0.0] if zero else values), max(values)
        margin = 0.08 * (max(high - low, 1e-3 * abs(high)) or 1.0)
        return Axis(title, text, low if zero else low - margin, high + margin)

    def place(self, value: float, start: float, end: float) -> float:
        """Return where a value lies between two positions."""
        return start + (value - self.low) / (self.high - self.low) * (end - start)


@dataclass(frozen=True)
class Mark:
    """A point with a label and, for measured times, the range of its middle half."""

    x: float
    y: float
    label: str
    title: str
    kind: Literal["dense", "cut", "final"]
    spread: tuple[float, float] | None = None


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


def bar(share: float, title: str) -> Markup:
    """Draw a share of a whole as a bar that takes the width of its place."""
    width = 100 * min(max(share, 0.0), 1.0)
    return Markup(
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" role="img"><title>{}</title>'
        '<rect class="track" width="100" height="6"/><rect class="fill" width="{:.2f}" height="6"/></svg>'
    ).format(title, width)


def spectrum(
    units: Sequence[int], loss: Sequence[float], cut: int, decades: tuple[int, int], title: str
) -> Markup:
    """Draw the loss of a group over the number of units kept, on a logarithmic scale between two powers of ten.

    What lies right of the cut was removed.
    """
    wide, high, left, right, top, bottom = 176, 104, 34, 6, 6, 18
    axis = Axis("", lambda v: f"{100 * 10**v:g}\N{NARROW NO-BREAK SPACE}%", *decades)

    def at(k: int, value: float) -> tuple[float, float]:
        level = max(math.log10(value), decades[0]) if value > 0 else decades[0]
        x = left + k / max(units[-1], 1) * (wide - left - right)
        return x, axis.place(level, high - bottom, top)

    parts = []
    step = -(-(decades[1] - decades[0]) // 4)
    for power in range(decades[1], decades[0] - 1, -step):
        y = axis.place(power, high - bottom, top)
        parts.append(_rule(left, wide - right, y, axis.text(power)))
    # Beyond the lowest power the curve would only run along the edge.
    points = [at(k, v) for k, v in zip(units, loss, strict=True)]
    floor = high - bottom
    end = next((i for i, (_, y) in enumerate(points) if y >= floor), len(points) - 1)
    line = " L".join(f"{x:.1f} {y:.1f}" for x, y in points[: end + 1])
    x, y = at(cut, dict(zip(units, loss, strict=True)).get(cut, 0.0))
    return Markup(
        '<svg class="spectrum" viewBox="0 0 {wide} {high}" role="img"><title>{title}</title>'
        '<rect class="gone" x="{x:.1f}" y="{top}" width="{rest:.1f}" height="{inner}"/>{grid}'
        '<path class="line" d="M{line}"/><path class="cut" d="M{x:.1f} {top} V{floor}"/>'
        '<circle class="final" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
        '<text class="tick" x="{left}" y="{base}">0</text>'
        '<text class="tick" x="{end}" y="{base}" text-anchor="end">{most} units</text></svg>'
    ).format(
        wide=wide,
        high=high,
        title=title,
        grid=Markup("").join(parts),
        top=top,
        rest=wide - right - x,
        inner=floor - top,
        floor=floor,
        line=line,
        x=x,
        y=y,
        left=left,
        base=high - 5,
        end=wide - right,
        most=units[-1],
    )


def plot(marks: Sequence[Mark], links: Sequence[tuple[Mark, Mark]], x: Axis, y: Axis, title: str) -> Markup:
    """Draw labelled points and the steps between them."""
    parts = [*_grid(x, y)]
    for start, end in links:
        (x1, y1), (x2, y2) = _position(start, x, y), _position(end, x, y)
        parts.append(
            Markup('<path class="link {}" d="M{:.1f} {:.1f} L{:.1f} {:.1f}"/>').format(
                "step" if start.kind == "cut" else "gain", x1, y1, x2, y2
            )
        )
    for mark in marks:
        px, py = _position(mark, x, y)
        if mark.spread:
            low, high = (x.place(v, LEFT, WIDTH - RIGHT) for v in mark.spread)
            parts.append(
                Markup('<path class="spread" d="M{:.1f} {py:.1f} H{:.1f}"/>').format(low, high, py=py)
            )
        parts.append(
            Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>').format(
                mark.kind, px, py, 3 if mark.kind == "cut" else 4, mark.title
            )
        )
    parts += _labels(marks, [_position(m, x, y) for m in marks], _lines(marks, links, x, y))
    return Markup('<svg class="plot" viewBox="0 0 {} {}" role="img"><title>{}</title>{}</svg>').format(
        WIDTH, HEIGHT, title, Markup("").join(parts)
    )


def _position(mark: Mark, x: Axis, y: Axis) -> tuple[float, float]:
    return x.place(mark.x, LEFT, WIDTH - RIGHT), y.place(mark.y, HEIGHT - BOTTOM, TOP)


def _rule(left: int, right: int, y: float, text: str) -> Markup:
    return Markup(
        '<path class="grid" d="M{left} {y:.1f} H{right}"/>'
        '<text class="tick" x="{at}" y="{base:.1f}" text-anchor="end">{text}</text>'
    ).format(left=left, right=right, y=y, at=left - 5, base=y + 3.5, text=text)


def _grid(x: Axis, y: Axis) -> list[Markup]:
    parts = []
    for value in ticks(y.low, y.high):
        at = y.place(value, HEIGHT - BOTTOM, TOP)
        parts.append(_rule(LEFT, WIDTH - RIGHT, at, y.text(value)))
    base = HEIGHT - BOTTOM
    parts.append(Markup('<path class="axis" d="M{} {} H{}"/>').format(LEFT, base, WIDTH - RIGHT))
    for value in ticks(x.low, x.high):
        at = x.place(value, LEFT, WIDTH - RIGHT)
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                at, base + 15, x.text(value)
            )
        )
    name = Markup('<text class="name" x="{}" y="{}" text-anchor="{}">{}</text>')
    parts.append(name.format(WIDTH - RIGHT, HEIGHT - 6, "end", x.title))
    parts.append(name.format(0, 9, "start", y.title))
    return parts


def _lines(
    marks: Sequence[Mark], links: Sequence[tuple[Mark, Mark]], x: Axis, y: Axis
) -> list[tuple[float, float]]:
    """Return points along all lines, so that labels can keep off them."""
    ends = [(_position(a, x, y), _position(b, x, y)) for a, b in links]
    for mark in marks:
        if mark.spread:
            low, high = (x.place(v, LEFT, WIDTH - RIGHT) for v in mark.spread)
            height = _position(mark, x, y)[1]
            ends.append(((low, height), (high, height)))
    steps = [n / 24 for n in range(25)]
    return [(a + t * (c - a), b + t * (d - b)) for (a, b), (c, d) in ends for t in steps]


def _labels(
    marks: Sequence[Mark], points: Sequence[tuple[float, float]], lines: Sequence[tuple[float, float]]
) -> list[Markup]:
    """Write each label beside its point, where it covers least of other labels, points and lines."""
    taken = [(px - 5, px + 5, py - 5, py + 5) for px, py in points]  # left, right, top, bottom
    parts = []
    for mark, (px, py) in zip(marks, points, strict=True):
        if not mark.label:
            continue
        width = CHARACTER * len(mark.label)
        columns = (px + GAP, px - GAP - width, min(max(px - width / 2, 0), WIDTH - width))
        rows = (py + 3.5, py - GAP, py + GAP + 8)
        places = [(left, base) for left in columns for base in rows if (left, base) != (columns[2], rows[0])]
        boxes = [(left, left + width, base - 9, base + 3) for left, base in places]
        best = min(range(len(boxes)), key=lambda n: _covered(boxes[n], taken, lines))
        taken.append(boxes[best])
        parts.append(
            Markup('<text class="label" x="{:.1f}" y="{:.1f}">{}</text>').format(*places[best], mark.label)
        )
    return parts


def _covered(box: Box, taken: Sequence[Box], lines: Sequence[tuple[float, float]]) -> int:
    """Return how much a box would cover; being outside of the drawing counts most."""
    left, right, top, bottom = box
    outside = left < 0 or right > WIDTH or top < 0 or bottom > HEIGHT - BOTTOM
    boxes = sum(
        left < end and start < right and top < low and high < bottom for start, end, high, low in taken
    )
    return 1000 * outside + 30 * boxes + sum(left <= x <= right and top <= y <= bottom for x, y in lines)
