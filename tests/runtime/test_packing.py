"""The packed layout: what goes in comes out."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from sparse import blocked, unified

from secateur.runtime import HEIGHTS, best_height, pack, pack_unified, unpack, unpack_unified
from secateur.runtime.packing import check_packed


@given(
    rows=st.integers(1, 40), inputs=st.integers(1, 12), groups=st.integers(1, 3), height=st.sampled_from(HEIGHTS),
    zeros=st.sampled_from((0.0, 0.6, 1.0)), seed=st.integers(0, 99),
)  # fmt: skip
def test_round_trip(rows: int, inputs: int, groups: int, height: int, zeros: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    weight = blocked(rows * groups, inputs * 6, height, zeros, rng).reshape(rows * groups, inputs, 2, 3)
    packed = pack(weight, height=height, groups=groups)
    check_packed(packed, 6)
    assert torch.equal(unpack(packed, (2, 3), groups), weight)


@given(rows=st.integers(1, 20), inputs=st.integers(1, 12), zeros=st.sampled_from((0.0, 0.6, 1.0)),
       kept=st.sampled_from((0.0, 0.3)), seed=st.integers(0, 99))  # fmt: skip
def test_round_trip_unified(rows: int, inputs: int, zeros: float, kept: float, seed: int) -> None:
    weight = unified(rows, inputs, 1, zeros, kept, torch.Generator().manual_seed(seed))
    packed = pack_unified(weight)
    check_packed(packed, 1)
    assert torch.equal(unpack_unified(packed), weight)
    if not kept and inputs % 4 == 0:
        assert packed.entries == int((weight != 0).sum()) // 4  # one product for four weights


def test_the_best_height_is_that_of_the_blocks() -> None:
    rng = torch.Generator().manual_seed(0)
    assert best_height(blocked(64, 200, 16, 0.8, rng)) == 16
    assert best_height(blocked(64, 200, 8, 0.8, rng)) == 8
    assert best_height(blocked(64, 200, 4, 0.8, rng)) == 4
    assert best_height(blocked(64, 200, 1, 0.95, rng)) == 1


def test_only_what_is_not_zero_is_stored() -> None:
    weight = torch.zeros(16, 10)
    weight[3, 2] = weight[12, 9] = 1
    packed = pack(weight, height=8)
    assert packed.entries == 2
    assert packed.values.shape == (2, 8)
