"""Budgets: a number with a unit, or an error that says what to write."""

import pytest

from secateur.errors import BudgetError
from secateur.selection import Budget


def test_shares_and_absolute_numbers() -> None:
    assert Budget(macs=0.5).absolute(1000) == 500
    assert Budget(params=1).absolute(1000) == 1000
    assert Budget(params=200).absolute(1000) == 200
    assert Budget(macs=2.0).absolute(1000) == 2
    assert Budget(variance=0.99).unit == "variance"
    assert Budget(params=7).value == 7.0


def test_in_words() -> None:
    assert str(Budget(macs=0.25)) == "25.0% of macs"
    assert str(Budget(macs=1_000_000)) == "at most 1,000,000 macs"
    assert str(Budget(variance=0.995)) == "99.50% of the variance of every group"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "exactly one of macs, params, variance; none was given"),
        ({"macs": 0.5, "params": 0.5}, "not macs and params together"),
        ({"macs": 0}, "finite number above 0"),
        ({"macs": -0.5}, "finite number above 0"),
        ({"params": True}, "finite number above 0"),
        ({"params": "half"}, "params='half'"),
        ({"macs": float("nan")}, "finite number above 0"),
        ({"macs": float("inf")}, "finite number above 0"),
        ({"variance": 1.5}, "at most 1"),
        ({"macs": 50.5}, r"neither a share .* write 0\.505\?"),
        ({"params": 1234.5}, r"write 1234\?"),
    ],
)
def test_what_is_no_budget(given: dict[str, float], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget(**given)
