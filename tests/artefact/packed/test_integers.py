"""Weights that are integers times scales are stored as integers, and come back bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import secateur as sc


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 127), st.integers(0, 99))
def test_integers_come_back(tmp_path: Path, rows: int, columns: int, most: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    integers = torch.randint(-most, most + 1, (rows, columns), generator=rng)
    scales = torch.rand(rows, 1, generator=rng) + 1e-3
    tensors = {"fc.weight": integers * scales, "fc.weight_scales": scales}
    packed = sc.pack(tensors, tmp_path / "net.sec")
    assert {t.name: t.bits for t in packed.tensors} == {"fc.weight": 8, "fc.weight_scales": None}
    back = sc.unpack(tmp_path / "net.sec")
    for name, tensor in tensors.items():
        assert torch.equal(back[name].view(torch.int32), tensor.view(torch.int32))


@pytest.mark.parametrize(
    "other",
    [torch.randn(4, 8), torch.full((4, 8), -0.0), torch.full((4, 8), torch.nan), torch.full((4, 8), 300.0)],
    ids=["real", "negative zero", "nan", "too large"],
)
def test_what_is_no_such_product_is_stored_as_it_is(tmp_path: Path, other: torch.Tensor) -> None:
    packed = sc.pack({"weight": other, "weight_scales": torch.ones(4, 1)}, tmp_path / "net.sec")
    assert {t.bits for t in packed.tensors} == {None}
    assert torch.equal(sc.unpack(tmp_path / "net.sec")["weight"].view(torch.int32), other.view(torch.int32))
