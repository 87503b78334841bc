import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from secateur.report.svg import HEIGHT, WIDTH, Axis, Mark, plot, ticks

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
        assert 0 <= axis.place(value, 0, 100) <= 100
    if zero and min(values) >= 0:
        assert axis.low == 0


@given(points=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6))
def test_labels_stay_inside_the_drawing(points: list[tuple[float, float]]) -> None:
    marks = [Mark(x, y, "recovered 93.2 %", "", "final") for x, y in points]
    text = plot(marks, [], Axis("", str, 0, 1), Axis("", str, 0, 1), "t")
    labels = re.findall(r'class="label" x="([\d.-]+)" y="([\d.-]+)"', text)
    assert len(labels) == len(points)
    assert all(0 <= float(x) <= WIDTH and 0 < float(y) < HEIGHT for x, y in labels)


@pytest.mark.parametrize("gap", [0.0, 0.01])
def test_labels_of_close_points_do_not_cover_each_other(gap: float) -> None:
    marks = [Mark(0.4, 0.5, "one", "", "dense"), Mark(0.4 + gap, 0.5, "two", "", "final")]
    text = plot(marks, [], Axis("", str, 0, 1), Axis("", str, 0, 1), "t")
    (x1, y1), (x2, y2) = re.findall(r'class="label" x="([\d.-]+)" y="([\d.-]+)"', text)
    assert abs(float(y1) - float(y2)) >= 12 or abs(float(x1) - float(x2)) >= 3 * 6
