"""What evaluate may return, and how it is written."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.ground.errors import MetricError
from secateur.measure.metric import Metric, MetricFormat

NUMBER = Metric("score", format=MetricFormat.NUMBER)


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        Fraction(1, 2),
        np.float32(0.5),
        np.float64(0.5),
        np.array(0.5),
        torch.tensor(0.5),
        torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True),
    ],
)
def test_one_number_of_any_kind_becomes_a_float(value: Any) -> None:
    found = Metric().checked(value)
    assert type(found) is float
    assert found == 0.5


@pytest.mark.parametrize("value", [1, np.int64(1), torch.tensor(1)])
def test_whole_numbers_become_floats(value: Any) -> None:
    assert type(Metric().checked(value)) is float


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "None (NoneType)"),
        (True, "True (bool)"),
        (np.bool_(True), "bool"),
        ("0.9", "'0.9' (str)"),
        ((0.9, 0.1), "(0.9, 0.1) (tuple)"),
        ({"accuracy": 0.9}, "(dict)"),
        (1 + 2j, "complex"),
        (torch.zeros(2), "Tensor of shape (2,)"),
        (torch.zeros(1), "Tensor of shape (1,)"),
        (torch.tensor(True), "Tensor of shape ()"),
        (np.zeros((1, 1)), "ndarray of shape (1, 1)"),
    ],
)
def test_what_is_no_number_is_told_with_the_remedy(value: Any, said: str) -> None:
    with pytest.raises(MetricError, match="return one number") as caught:
        Metric().checked(value)
    assert said in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, torch.tensor(math.nan)])
def test_numbers_that_are_not_finite_are_refused(value: Any) -> None:
    with pytest.raises(MetricError, match="not finite"):
        NUMBER.checked(value)


@pytest.mark.parametrize("value", [-1230.0, 93.2, 1.001, -0.001])
def test_a_share_lies_between_none_and_all(value: float) -> None:
    with pytest.raises(MetricError, match="no share") as caught:
        Metric().checked(value)
    assert "MetricFormat.NUMBER" in str(caught.value)
    assert NUMBER.checked(value) == value


def test_rounding_above_one_is_forgiven() -> None:
    assert Metric().checked(torch.tensor(1.0) + 1e-6) == pytest.approx(1.0)


def test_a_metric_says_what_is_wrong_with_it() -> None:
    with pytest.raises(MetricError, match="name"):
        Metric(" ")
    with pytest.raises(MetricError, match=r"MetricFormat\.PERCENT"):
        Metric("accuracy", format="percent")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (15.331, "15.33"),
        (-1230.0, "-1,230"),
        (123456.7, "123,457"),
        (0.001234, "0.001234"),
        (1.5e-7, "1.500e-07"),
        (2.5e15, "2.500e+15"),
    ],
)
def test_numbers_have_four_significant_digits(value: float, text: str) -> None:
    assert NUMBER.text(value) == text


def test_differences_are_signed_and_shares_differ_in_points() -> None:
    assert Metric().change(0.5, 0.75) == "-25.00 points"
    assert Metric().change(0.75, 0.5) == "+25.00 points"
    assert NUMBER.change(17.68, 15.331) == "+2.349"
    assert NUMBER.change(1.0, 1.0) == "0"


@given(st.floats(-1e300, 1e300))
def test_any_number_is_written_short_and_close(value: float) -> None:
    text = NUMBER.text(value)
    assert len(text) <= 20
    assert float(text.replace(",", "")) == pytest.approx(value, rel=1e-3, abs=0)
