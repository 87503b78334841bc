"""Micro-structures without training, from the model to the artefact: the laws, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from artefacts import resign
from models import SMALL, Case
from torch import Tensor, nn

import secateur as sc
from secateur.blocks import KEEP, UNIFY, ZERO, BlockPattern
from secateur.ground.errors import (
    ArtefactError,
    BudgetError,
    CalibrationError,
    StructureError,
    UnknownNameError,
    UsageError,
)
from secateur.report import read_report
from secateur.surgery import plan_from_json, plan_to_json

NAMES = ("perceptron", "residual", "depthwise", "grouped", "mixer", "shared")
CASES = [case for case in SMALL if case.name in NAMES]
BOTH = sc.MicroStructured(sc.Block(2, 1), zero=0.5, unify=0.25)


def data(case: Case) -> list[Tensor]:
    return list(case.inputs(64, seed=3).split(16))


def structured(case: Case, model: nn.Module | None = None, **options: Any) -> sc.Result:
    options = {"method": BOTH, "calibration": data(case), "progress": False} | options
    return sc.prune(model or case.model(), case.inputs(2), **options)


def test_cases_are_there() -> None:
    assert len(CASES) >= 4


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_saved_is_loaded_and_obeys_its_pattern(case: Case, tmp_path: Path) -> None:
    """Law 2, and law 9: what the report says is counted and measured, not promised."""
    result = structured(case)
    weights = dict(result.model.named_parameters())
    assert result.plan.patterns
    for name, pattern in result.plan.patterns.items():
        assert pattern.obeyed(weights[name].detach()), name
    loaded = sc.load(result.save(tmp_path / "a"), case.make)
    x = case.inputs(3, seed=8)
    with torch.no_grad():
        assert torch.equal(loaded(x), result.model(x))
        assert not torch.equal(case.model()(x), result.model(x))
    assert read_report(tmp_path / "a").structure == result.report.structure
    report = result.report
    assert report.structure is not None
    assert report.latency is not None
    assert report.before.macs == report.after.macs  # a dense engine multiplies zeros like any others
    assert report.before.bytes == report.after.bytes
    assert report.structure.stored_bits < 1
    assert "only files and kernels that know blocks save" in str(report)
    assert report.max_masked_difference == 0


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_plan_goes_through_json(case: Case) -> None:
    plan = structured(case, calibration=None).plan
    again = plan_from_json(json.loads(json.dumps(plan_to_json(plan))), plan.tensors)
    assert again.patterns == plan.patterns


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("unit", ["macs", "bytes"])
def test_a_budget_is_met_or_refused(case: Case, unit: str) -> None:
    """Law 3."""
    method = sc.MicroStructured(sc.Block(2, 1), spread=sc.blocks.AcrossLayers(), skip=(), recovery=None)
    found = {}
    for share in (0.8, 0.6):
        result = structured(case, method=method, budget=sc.Budget(**{unit: share}))
        counted = result.report.structure
        assert counted is not None
        level = counted.operations if unit == "macs" else counted.stored_bits
        assert level <= share
        assert level > share - 0.15
        found[share] = result.plan.patterns
    for name, tight in found[0.6].items():  # law 5
        assert bool((tight.states[found[0.8][name].states == ZERO] == ZERO).all())
    with pytest.raises(BudgetError, match=r"keeps [0-9.]+%"):
        structured(case, method=method, budget=sc.Budget(**{unit: 0.001}))


def test_methods_compose(tmp_path: Path) -> None:
    """Fewer units, then zero blocks, then unified ones, as one plan and one artefact."""
    case = next(c for c in SMALL if c.name == "residual")
    dense, x = case.model(), case.inputs(3, seed=8)
    first = sc.prune(
        dense,
        case.inputs(2),
        method=sc.SNP(),
        budget=sc.Budget(macs=0.7),
        calibration=data(case),
        progress=False,
    )
    block = sc.Block(2, 1)
    second = structured(case, first, dense=dense, method=sc.MicroStructured(block, zero=0.5))
    third = structured(case, second, dense=dense, method=sc.MicroStructured(block, zero=0.5, unify=0.3))
    assert third.plan.kept == first.plan.kept
    assert third.plan.edits == first.plan.edits
    for name, pattern in third.plan.patterns.items():
        zeros = second.plan.patterns[name].states == ZERO
        assert torch.equal(pattern.states == ZERO, zeros)
        assert pattern.share(UNIFY) > 0.1
    assert third.report.after.macs < 0.8 * third.report.before.macs
    assert third.report.method.startswith("SNP; 2x1 blocks, 50 % zero; 2x1 blocks, 50 % zero, 30 % unified")
    loaded = sc.load(third.save(tmp_path / "a"), case.make)
    with torch.no_grad():
        assert torch.equal(loaded(x), third.model(x))
    assert third.recipe["budget"] == {"macs": 0.7}
    assert [step["method"]["zero"] for step in third.recipe["then"]] == [0.5, 0.5]
    with pytest.raises(UsageError, match="dense="):
        structured(case, replace(first, dense=None))
    assert structured(case, first, method=BOTH).dense is dense


@pytest.mark.parametrize("seed", range(3))
def test_compensation_brings_the_outputs_closer(seed: int) -> None:
    case = next(c for c in SMALL if c.name == "residual")
    dense = case.model(seed)
    x = torch.cat(data(case))
    errors = {}
    for label, recovery in (
        ("projected", None),
        ("once", sc.Compensate(sweeps=1)),
        ("swept", sc.Compensate()),
    ):
        model = structured(case, dense, method=replace(BOTH, recovery=recovery)).model
        with torch.no_grad():
            errors[label] = float(((model(x) - dense(x)) ** 2).mean())
    assert errors["once"] < errors["projected"]
    assert errors["swept"] < errors["projected"]


def test_the_same_data_in_other_batches_give_the_same_pattern() -> None:
    case = CASES[0]
    one, other = (structured(case, calibration=list(case.inputs(64, seed=3).split(n))) for n in (64, 16))
    for name, pattern in one.plan.patterns.items():
        assert float((pattern.states == other.plan.patterns[name].states).double().mean()) > 0.95
    again = structured(case)
    assert all(
        torch.equal(a, b)
        for a, b in zip(other.model.state_dict().values(), again.model.state_dict().values())
    )


def test_tampered_artefacts_are_refused(tmp_path: Path) -> None:
    case = CASES[0]
    result = structured(case)
    folder = result.save(tmp_path / "a")
    whole = json.loads((folder / "plan.json").read_text())
    name, good = next(iter(whole["plan"]["patterns"].items()))
    changes: list[dict[str, Any]] = [
        {"states": "AAAA"}, {"states": good["states"][:-4]}, {"states": "!" * len(good["states"])}, {"states": 3},
        {"shape": [2**31, 2**31]}, {"shape": []}, {"block": [0, 1, 1]}, {"block": [8, 1]}, {"reshape": "rows"},
        {"groups": 7}, {"inputs_first": 1}, {"more": 1}, {"block": [10**6, 1, 1]},
    ]  # fmt: skip
    for change in changes:
        whole["plan"]["patterns"][name] = good | change
        (folder / "plan.json").write_text(json.dumps(whole))
        resign(folder)
        with pytest.raises(ArtefactError):
            sc.load(folder, case.make)
    partition = result.plan.patterns[name].partition  # all zero: a pattern that the weights do not obey
    other = BlockPattern(partition, torch.full(partition.grid, ZERO, dtype=torch.int8))
    whole["plan"]["patterns"] = plan_to_json(
        replace(result.plan, patterns={**result.plan.patterns, name: other})
    )["patterns"]
    (folder / "plan.json").write_text(json.dumps(whole))
    resign(folder)
    with pytest.raises(ArtefactError, match="does not obey"):
        sc.load(folder, case.make)


def test_bad_input_is_refused() -> None:
    case = CASES[0]
    for shares in ((0.7, 0.4), (-0.1, 0.0), (0.0, 1.1), (float("nan"), 0.0)):
        with pytest.raises(StructureError):
            sc.MicroStructured(sc.Block(2, 1), *shares)
        with pytest.raises(StructureError):
            sc.blocks.Shares(*shares)
    with pytest.raises(StructureError, match="can be cut"):
        structured(case, method=sc.MicroStructured(sc.Block(512, 1)))
    with pytest.raises(StructureError, match="no Block"):
        sc.MicroStructured("8x1")  # type: ignore[arg-type]
    with pytest.raises(StructureError, match="most="):
        sc.blocks.AcrossLayers(most=0)
    with pytest.raises(BudgetError, match=r"budgets of macs, bytes, .*Budget\(macs=0\.1\), not params"):
        structured(case, budget=sc.Budget(params=0.5))
    with pytest.raises(BudgetError, match="shares of macs or bytes"):
        structured(case, budget=sc.Budget(bytes=1000))
    with pytest.raises(UnknownNameError, match="shares"):
        structured(case, method=sc.MicroStructured(sc.Block(2, 1), shares={"nowhere": sc.blocks.Shares(0.5)}))
    with pytest.raises(CalibrationError):
        structured(case, calibration=[])
    with pytest.raises(UsageError, match="no use for limits"):
        structured(case, limits=sc.Limits(round_to=8))
    with pytest.raises(UsageError, match="leave training out"):
        structured(case, training=sc.Training([]))


def test_layers_have_shares_of_their_own() -> None:
    case = next(c for c in SMALL if c.name == "residual")
    method = sc.MicroStructured(sc.Block(2, 1), zero=0.5, shares={"a1": sc.blocks.Shares(0.25, 0.5)})
    patterns = structured(case, method=method).plan.patterns
    assert patterns["a1.weight"].share(ZERO) == pytest.approx(0.25, abs=0.02)
    assert patterns["a1.weight"].share(UNIFY) == pytest.approx(0.5, abs=0.02)
    assert patterns["b1.weight"].share(ZERO) == pytest.approx(0.5, abs=0.02)
    assert patterns["b1.weight"].share(KEEP) == pytest.approx(0.5, abs=0.02)


def test_a_result_that_was_trained_must_still_obey() -> None:
    case = CASES[0]
    result = structured(case)
    result.updated(result.model)
    with torch.no_grad():
        for p in result.model.parameters():
            p.add_(0.1)
    with pytest.raises(sc.SecateurError, match="obey"):
        result.updated(result.model)
    assert isinstance(next(iter(result.plan.patterns.values())), BlockPattern)
