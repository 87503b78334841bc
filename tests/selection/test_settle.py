"""Finding the target whose measured level is just below the limit."""

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.selection.settle import settle

CURVES: dict[str, Callable[[float], float]] = {
    "true": lambda x: x,
    "far too slow": lambda x: 0.2 + 3 * x,
    "far too fast": lambda x: 0.1 * x,
    "with an offset": lambda x: 0.85 + 0.1 * x,
    "bent up": lambda x: 0.3 * x**3,
    "bent down": lambda x: 0.6 * math.sqrt(x),
    "almost flat at first": lambda x: 0.7 + 0.2 * x**2,
}


@pytest.mark.parametrize("start", [0.5, 0.975, 2.0])
@pytest.mark.parametrize("name", list(CURVES))
def test_smooth_curves_are_met_from_below(name: str, start: float) -> None:
    seen = []

    def attempt(x: float) -> float:
        seen.append(x)
        return CURVES[name](x)

    found = settle(attempt, start, 0.01, 15.0)
    assert found is not None
    assert 0.95 <= CURVES[name](found) <= 1
    assert found in seen
    assert len(seen) <= 8


@given(st.floats(0.3, 3), st.floats(0, 0.6), st.integers(0, 1000))
def test_noise_of_a_percent_does_no_harm(slope: float, offset: float, seed: int) -> None:
    rng = random.Random(seed)

    def attempt(x: float) -> float:
        return (offset + slope * x) * (1 + rng.uniform(-0.01, 0.01))

    found = settle(attempt, 0.975, 0.01, 10.0)
    assert found is not None
    assert 0.94 <= offset + slope * found <= 1.01


def test_steps_that_jump_over_the_band_are_met_from_below() -> None:
    found = settle(lambda x: 0.9 if x < 0.5 else 1.2, 0.975, 0.1, 2.0)
    assert found is not None
    assert found < 0.5


def test_what_fits_already_is_left_whole() -> None:
    seen = []

    def attempt(x: float) -> float:
        seen.append(x)
        return 0.4

    assert settle(attempt, 5.0, 0.5, 2.0) == 2.0
    assert seen == [2.0]


@pytest.mark.parametrize("steps", [1, 8])
def test_out_of_reach_is_said_after_the_smallest_was_tried(steps: int) -> None:
    seen = []

    def attempt(x: float) -> float:
        seen.append(x)
        return 1.01 + x

    assert settle(attempt, 1.0, 0.1, 2.0, steps=steps) is None
    assert seen[-1] == 0.1


def test_where_there_is_no_choice() -> None:
    assert settle(lambda x: 0.5, 1.0, 1.0, 1.0) == 1.0
    assert settle(lambda x: 1.5, 1.0, 1.0, 1.0) is None
