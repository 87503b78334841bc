"""Budgets: a number with a unit, or an error that says what to write."""

import numpy as np
import pytest

from secateur.ground.errors import BudgetError
from secateur.selection import Budget


def test_shares_and_absolute_numbers() -> None:
    assert Budget(macs=0.5).absolute(1000) == 500
    assert Budget(params=1).absolute(1000) == 1000
    assert Budget(params=200).absolute(1000) == 200
    assert Budget(macs=2.0).absolute(1000) == 2
    assert Budget(bytes=0.25).absolute(1000) == 250
    assert Budget(bytes=64_000).absolute(1_000_000) == 64_000
    assert Budget(variance=0.99).unit == "variance"
    assert Budget(params=7).value == 7.0


def test_numbers_of_numpy_are_numbers() -> None:
    assert Budget(macs=np.int64(700)) == Budget(macs=700)
    assert Budget(macs=np.float32(0.5)) == Budget(macs=0.5)
    assert [type(b.macs) for b in (Budget(macs=np.int64(700)), Budget(macs=np.float32(0.5)))] == [int, float]
    with pytest.raises(BudgetError, match="finite number"):
        Budget(macs=np.bool_(True))


def test_time_is_a_share_or_milliseconds_by_name() -> None:
    assert Budget(latency=0.6).absolute(5.0) == pytest.approx(3)
    assert Budget(latency=1).absolute(0.25) == 0.25
    assert Budget(latency_ms=0.8).absolute(5.0) == 0.8
    assert Budget(latency_ms=12.5).absolute(5.0) == 12.5
    assert Budget(latency=0.6).timed
    assert Budget(latency_ms=0.6).timed
    assert not Budget(macs=0.6).timed


def test_in_words() -> None:
    assert str(Budget(macs=0.25)) == "25.0% of macs"
    assert str(Budget(macs=1_000_000)) == "at most 1,000,000 macs"
    assert str(Budget(bytes=0.5)) == "50.0% of bytes"
    assert str(Budget(latency=0.6)) == "60.0% of the latency"
    assert str(Budget(latency_ms=0.75)) == "at most 0.75 ms"
    assert repr(Budget(latency_ms=12.5)) == "Budget(latency_ms=12.5)"
    assert str(Budget(variance=0.995)) == "99.50% of the variance of every group"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "exactly one of macs, params, variance, bytes, latency, latency_ms, weights; none was given"),
        ({"macs": 0.5, "params": 0.5}, "not macs and params together"),
        ({"macs": 0}, "finite number above 0"),
        ({"macs": -0.5}, "finite number above 0"),
        ({"params": True}, "finite number above 0"),
        ({"params": "half"}, "params='half'"),
        ({"macs": float("nan")}, "finite number above 0"),
        ({"macs": float("inf")}, "finite number above 0"),
        ({"variance": 1.5}, "at most 1"),
        ({"latency": 12}, r"a share of latency is at most 1; for milliseconds write latency_ms=12"),
        ({"latency": 0.5, "latency_ms": 3}, "not latency and latency_ms together"),
        ({"latency_ms": 0}, "finite number above 0"),
        ({"bytes": 1.5}, "write 0.015"),
        ({"macs": 50.5}, r"neither a share .* write 0\.505\?"),
        ({"params": 1234.5}, r"write 1234\?"),
    ],
)
def test_what_is_no_budget(given: dict[str, float], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget(**given)
