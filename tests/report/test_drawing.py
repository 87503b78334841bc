import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from secateur.report.drawing import WIDE, Axis, Chart, Line, Mark, ticks
from secateur.report.page import environment

UNIT = Axis("", 0, 1, [])


def chart(
    title: str,
    x: Axis,
    y: Axis,
    marks: Sequence[Mark] = (),
    lines: Sequence[Line] = (),
    gone: float | None = None,
) -> str:
    return str(
        environment().get_template("chart.html").module.chart(Chart("", title, x, y, marks, lines, gone))
    )


def bar(title: str, **shares: float) -> str:
    return str(environment().get_template("chart.html").module.bar(title, shares))


numbers = st.floats(-1e9, 1e9, allow_nan=False).filter(lambda v: v == 0 or abs(v) > 1e-9)


@given(low=numbers, high=numbers)
def test_ticks_are_few_and_within(low: float, high: float) -> None:
    assume(high - low > 1e-6 * max(abs(high), abs(low), 1e-6))
    found = ticks(low, high)
    assert 2 <= len(found) <= 9
    slack = 1e-6 * (high - low)
    assert all(low - slack <= t <= high + slack for t in found)


@given(values=st.lists(numbers, min_size=1, max_size=5), zero=st.booleans())
def test_an_axis_holds_its_values(values: list[float], zero: bool) -> None:
    axis = Axis.over(values, "", str, zero=zero)
    for value in values:
        assert 0 <= axis.place(value) <= 1
    if zero and min(values) >= 0:
        assert axis.low == 0


@given(points=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6))
def test_labels_stay_inside_the_drawing(points: list[tuple[float, float]]) -> None:
    marks = [Mark(x, y, "recovered 93.2 %", "", "final") for x, y in points]
    text = chart("t", UNIT, UNIT, marks)
    labels = re.findall(r'class="label" x="([\d.-]+)" y="([\d.-]+)"', text)
    assert len(labels) == len(points)
    assert all(0 <= float(x) <= WIDE.width and 0 < float(y) < WIDE.height for x, y in labels)


@pytest.mark.parametrize("gap", [0.0, 0.01])
def test_labels_of_close_points_do_not_cover_each_other(gap: float) -> None:
    marks = [Mark(0.4, 0.5, "one", "", "dense"), Mark(0.4 + gap, 0.5, "two", "", "final")]
    text = chart("t", UNIT, UNIT, marks)
    (x1, y1), (x2, y2) = re.findall(r'class="label" x="([\d.-]+)" y="([\d.-]+)"', text)
    assert abs(float(y1) - float(y2)) >= 12 or abs(float(x1) - float(x2)) >= 3 * 6


def test_a_logarithmic_axis_is_even_in_ratios_and_clips_below() -> None:
    axis = Axis("", 0.01, 1.0, [], log=True)
    assert axis.place(0.1) == pytest.approx(0.5)
    assert axis.place(1.0) == pytest.approx(1.0)
    assert axis.place(0.0) == axis.place(0.01) == 0.0


@given(shares=st.lists(st.floats(-1, 2), min_size=1, max_size=2))
def test_bars_lie_beside_each_other_within_the_whole(shares: list[float]) -> None:
    text = bar("t", **dict(zip(("kept", "unified"), shares)))
    end = 0.0
    for x, width in re.findall(r'x="([\d.-]+)" width="([\d.-]+)"', text):
        assert float(x) == pytest.approx(end, abs=0.11)
        end = float(x) + float(width)
        assert float(width) >= 0
    assert end <= 100.11


def test_lines_points_and_shades_are_drawn_in_their_styles() -> None:
    marks = [Mark(0.5, 0.5, "", "<here>", "cut", (0.4, 0.6))]
    text = chart("t", UNIT, UNIT, marks, [Line("step", [(0, 0), (1, 1)])], gone=0.5)
    assert re.findall(r'<path class="(\w+)"', text) == ["axis", "step", "spread"]
    assert "<title>&lt;here&gt;</title>" in text
    (x, width) = re.findall(r'class="gone" x="([\d.]+)" y="24" width="([\d.]+)"', text)[0]
    assert float(x) + float(width) == WIDE.width - WIDE.right


def test_a_long_title_ends_within_the_drawing() -> None:
    text = chart("t", replace(UNIT, title="x" * 500), replace(UNIT, title="y" * 500))
    for name in re.findall(r'class="name"[^>]*>([^<]*)<', text):
        assert len(name) < 65
        assert name.endswith("\N{HORIZONTAL ELLIPSIS}")


@given(text=st.text())
def test_every_text_is_escaped(text: str) -> None:
    hostile = f"</title></svg><script>{text}"
    axis = Axis(hostile, 0, 1, [(0.5, hostile)])
    drawn = chart(hostile, axis, axis, [Mark(0, 0, hostile, hostile, "final")]) + bar(hostile, fill=0.5)
    assert drawn.count("<script") == 0
    assert drawn.count("</svg>") == 2
