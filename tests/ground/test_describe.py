"""Descriptions of runs: equal where the runs are, and what differs is named."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secateur as sc
from secateur.ground.describe import describe, differences
from secateur.ground.plain import from_plain
from secateur.training import Constant, Cosine


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def test_what_no_file_can_say_has_a_fingerprint() -> None:
    assert describe(nn.functional.cross_entropy) == "torch.nn.functional:cross_entropy"
    assert describe({"a": torch.zeros(2)}) != describe({"a": torch.ones(2)})
    assert describe(network(0)) == describe(network(0)) != describe(network(1))
    assert describe(torch.zeros(2)) != describe(torch.zeros(1, 2))
    assert describe(iter([1])) == {"type": "list_iterator"}
    assert describe(partial(torch.add, torch.ones(1)))["arguments"] == [describe(torch.ones(1))]
    assert describe(partial(sorted, key=torch.ones(1)))["key"] == describe(torch.ones(1))
    assert describe([torch.zeros(2)] * 20) == {"type": "list", "length": 20}
    assert describe(network(0).forward) == "torch.nn.modules.linear:Linear.forward"
    loader = DataLoader(TensorDataset(torch.zeros(5, 1)), batch_size=2)
    assert describe(loader) == {
        "dataset": "TensorDataset",
        "batch size": 2,
        "sampler": "SequentialSampler",
        "length": 3,
    }


def test_numbers_of_other_libraries_differ_by_their_value() -> None:
    for make in (np.float32, np.int64, float):
        first, second = (describe(sc.IrrelevanceDecay(gamma=make(n))) for n in (1, 2))
        assert first != second
    assert describe(math.nan) == describe(math.nan)


CHANGES: list[dict[str, Any]] = [
    {"epochs": 3},
    {"loss": nn.functional.mse_loss},
    {"loss": lambda outputs, labels: outputs.sum()},
    {"loader": [1, 2]},
    {"optimizer": partial(torch.optim.SGD, lr=0.1)},
    {"optimizer": partial(torch.optim.Adam, lr=0.002)},
    {"rewind": {"w": torch.ones(2)}},
    {"rewind": {"w": torch.zeros(2)}},
    {"schedule": Cosine(1)},
    {"schedule": Cosine(2)},
    {"teacher": sc.Teacher(network(0))},
    {"teacher": sc.Teacher(network(1))},
    {"validation": sc.Validation([1])},
    {"validation": sc.Validation([1], sc.Bound(0.5))},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_change_of_any_option_is_seen(change: dict[str, Any]) -> None:
    plain = sc.Training([1], loss=nn.functional.cross_entropy)
    changed = replace(plain, **change)
    (line, *_) = differences(describe(plain), describe(changed))
    assert line.startswith(next(iter(change)))
    others = [describe(replace(plain, **other)) for other in CHANGES if other is not change]
    assert describe(changed) not in others
    assert list(differences(describe(changed), describe(replace(plain, **change)))) == []


def test_classes_are_told_apart_and_fields_that_are_not_compared_are_left_out() -> None:
    @dataclass(frozen=True)
    class Counted:
        value: int
        log: Any = field(default=None, compare=False)

    assert describe(Counted(1, "a")) == describe(Counted(1, "b"))
    assert describe(Constant()) != describe(sc.OnePass())
    assert describe(sc.SNP())["name"] == "secateur.methods.snp:SNP"


def test_a_described_method_can_be_read() -> None:
    value = sc.SNP(recovery=sc.OnePass(ridges=(0.1,)))
    assert from_plain(sc.SNP, {k: v for k, v in describe(value).items() if k != "name"}) == value


def test_differences_are_named_by_their_path() -> None:
    assert list(differences({"a": 1}, {"b": 2})) == ["a: is missing", "b: is new"]
    assert list(differences({"a": {"b": [1]}}, {"a": {"b": [2]}})) == ["a.b: [2], was [1]"]
    assert list(differences({"a": {"b": 1}}, {"a": {"b": 1}})) == []
