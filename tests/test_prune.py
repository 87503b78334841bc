"""Methods one after the other, with and without training, as one plan and one artefact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from models import SMALL
from torch import Tensor, nn

import secateur as sc
from secateur.blocks import UNIFY, ZERO
from secateur.ground.errors import CalibrationError, DataError, StructureError, UsageError
from secateur.surgery import apply
from secateur.training import train

CASE = next(case for case in SMALL if case.name == "residual")
ZEROS = sc.MicroStructured(sc.Block(2, 1), zero=0.5)
BOTH = sc.MicroStructured(sc.Block(2, 1), zero=0.5, unify=0.25)


def data() -> list[Tensor]:
    return list(CASE.inputs(64, seed=3).split(16))


def training(dense: nn.Module, **options: Any) -> sc.Training:
    """Imitate the dense network."""
    with torch.no_grad():
        loader = [(x, dense(x)) for x in data()]
    adam = partial(torch.optim.Adam, lr=1e-3)
    return sc.Training(loader, **{"loss": nn.functional.mse_loss, "epochs": 3, "optimizer": adam, **options})


def halved(dense: nn.Module) -> sc.Result:
    budget = sc.Budget(macs=0.7)
    return sc.prune(dense, CASE.inputs(2), method=sc.SNP(), budget=budget, calibration=data(), progress=False)


def same(a: nn.Module, b: nn.Module) -> bool:
    x = CASE.inputs(3, seed=8)
    with torch.no_grad():
        return torch.equal(a(x), b(x))


def test_units_then_zeros_while_training_then_unified_blocks(tmp_path: Path) -> None:
    dense = CASE.model()
    units = halved(dense)
    zeros = sc.prune(
        units,
        CASE.inputs(2),
        dense=dense,
        method=sc.ADMM(ZEROS, epochs=2),
        training=training(dense),
        progress=False,
    )
    assert zeros.plan.edits == units.plan.edits
    assert same(apply(dense, zeros.plan), zeros.model)
    assert not same(zeros.model, units.model)
    assert zeros.report.method.startswith("SNP; ADMM, 2x1 blocks")
    assert zeros.report.budget.startswith(units.report.budget)
    assert zeros.report.seconds.keys() >= units.report.seconds.keys() | {"training"}
    assert zeros.report.structure is not None
    assert zeros.report.kept == units.report.kept
    both = sc.prune(zeros, CASE.inputs(2), dense=dense, method=BOTH, calibration=data(), progress=False)
    for name, pattern in both.plan.patterns.items():
        assert torch.equal(pattern.states == ZERO, zeros.plan.patterns[name].states == ZERO)
        assert pattern.share(UNIFY) > 0.1
        assert pattern.obeyed(both.model.get_parameter(name).detach())
    both.save(tmp_path / "small")
    sc.pack(tmp_path / "small", tmp_path / "small.sec")
    for path in (tmp_path / "small", tmp_path / "small.sec"):
        assert same(sc.load(path, CASE.make), both.model)
    assert same(apply(dense, both.plan), both.model)


def test_blocks_without_training_go_on_from_a_trained_model() -> None:
    """What training has changed is in the plan, too."""
    dense = CASE.model()
    zeros = sc.prune(
        dense, CASE.inputs(2), method=sc.ADMM(ZEROS, epochs=1), training=training(dense), progress=False
    )
    both = sc.prune(zeros, CASE.inputs(2), dense=dense, method=BOTH, progress=False)
    whole = [name for name in dict(both.model.named_parameters()) if name not in both.plan.patterns]
    assert whole
    assert all(torch.equal(both.model.get_parameter(n), zeros.model.get_parameter(n)) for n in whole)


def test_connections_go_where_blocks_are_zero_already() -> None:
    dense = CASE.model()
    zeros = sc.prune(dense, CASE.inputs(2), method=ZEROS, progress=False)
    found = sc.prune(
        zeros,
        CASE.inputs(2),
        dense=dense,
        method=sc.GradualMagnitude(every=1),
        training=training(dense),
        budget=sc.Budget(weights=0.4),
        progress=False,
    )
    for name, pattern in zeros.plan.patterns.items():
        weight = found.model.get_parameter(name)
        assert not weight[~pattern.mask()].any()
    total = sum(p.numel() for p in dense.parameters())
    assert found.masks.kept == pytest.approx(0.4 * total, abs=0.01 * total + 1)
    assert found.plan.patterns == zeros.plan.patterns


@pytest.mark.parametrize("prune_first", [False, True])
def test_no_epoch_before_the_last_projection_is_the_result(prune_first: bool) -> None:
    """A measure that likes the first epochs best; the blocks are fixed after the second or the fourth."""
    scores = iter([0.5, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    dense = CASE.model()
    method = sc.ADMM.prune_first(BOTH, epochs=2) if prune_first else sc.ADMM(BOTH, epochs=2)
    options = training(dense, epochs=5, validation=sc.Validation(lambda model: next(scores), patience=1))
    found = train(dense, method, options)
    assert found.metric == (0.6 if prune_first else 0.8)
    patterns = BOTH.observed(found.model)
    assert all(p.share(UNIFY) > 0.1 for p in patterns.values())


def test_what_cannot_go_on_is_refused() -> None:
    dense = CASE.model()
    x = CASE.inputs(2)
    both = sc.prune(dense, x, method=BOTH, progress=False)
    options: dict[str, Any] = {"dense": dense, "training": training(dense), "progress": False}
    with pytest.raises(StructureError, match="part the unified blocks"):
        sc.prune(both, x, method=sc.ADMM(BOTH, epochs=1), **options)
    with pytest.raises(UsageError, match="dense="):
        sc.prune(replace(both, dense=None), x, method=sc.ADMM(BOTH, epochs=1), training=training(dense))
    with pytest.raises(StructureError, match="up to 4 epochs"):
        sc.prune(dense, x, method=sc.ADMM(ZEROS, epochs=4), training=training(dense))
    with pytest.raises(StructureError, match="leave finetune out"):
        sc.prune(
            dense, x, method=sc.ADMM(BOTH, epochs=1), training=training(dense, finetune=1), progress=False
        )
    with pytest.raises(TypeError, match="comes before zeros"):
        sc.prune(both, x, method=sc.SNP(), budget=sc.Budget(macs=0.5), calibration=data())


class Remembers(nn.Module):
    """Keeps a tensor of its last forward, as for plots or for a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.features = torch.relu(self.first(x))
        return self.last(self.features)


@pytest.mark.parametrize("method", [sc.SNP(), sc.Magnitude(), sc.DeadUnits(), ZEROS])
def test_a_model_straight_from_training_is_pruned(method: sc.Method) -> None:
    torch.manual_seed(0)
    model, x = Remembers(), torch.randn(64, 6)
    model(x).sum().backward()
    budget = sc.Budget(macs=0.8) if isinstance(method, sc.SNP | sc.Magnitude) else None
    result = sc.prune(model.eval(), x[:2], method=method, budget=budget, calibration=[x], progress=False)
    assert result.model(x).shape == (64, 3)


def test_what_is_missing_is_named() -> None:
    dense, x = CASE.model(), CASE.inputs(2)
    with pytest.raises(UsageError, match=r"method=sc\.SNP\(\), and most methods need a budget"):
        sc.prune(dense, x)
    with pytest.raises(UsageError, match=r"method=sc\.SNP\(\)\.$"):
        sc.prune(dense, x, budget=sc.Budget(macs=0.5))
    with pytest.raises(UsageError, match=r"goes to a budget, and none is given: for instance budget="):
        sc.prune(dense, x, method=sc.SNP(), calibration=data())


def test_an_artefact_without_a_class_says_which(tmp_path: Path) -> None:
    halved(CASE.model()).save(tmp_path / "half")
    with pytest.raises(UsageError, match=r"pruned Residual and no code.*secateur\.load\('.*half', build\)"):
        sc.load(tmp_path / "half")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sc.Budget(flops=0.5), "Budget has no keyword 'flops'; it has macs, .*Did you mean 'macs'"),
        (lambda: sc.Budget(latenzy=0.5), "Did you mean 'latency'"),
        (lambda: sc.Limits(ignored_layers=()), "Did you mean 'exclude'"),
    ],
)
def test_unknown_keywords_are_answered(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distill": 3}, r"distill=3 is no Distill: give distill=sc\.Distill\(steps=200\)"),
        ({"limits": {"round_to": 8}}, r"is no Limits: give limits=sc\.Limits\("),
        ({"target": "onnxruntime"}, r"is no Target: give target=sc\.target\.OnnxRuntime\(\)"),
        ({"metric": "accuracy"}, "is no Metric"),
    ],
)
def test_options_of_another_kind_are_answered(options: dict[str, Any], message: str) -> None:
    given = {"method": sc.SNP(), "budget": sc.Budget(macs=0.5), "calibration": data()} | options
    with pytest.raises(UsageError, match=message):
        sc.prune(CASE.model(), CASE.inputs(2), **given)


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x + y)))


def test_data_types_that_do_not_go_together_are_told() -> None:
    model, x = Sum().eval(), torch.randn(64, 6)
    mixed = (x, x.double())
    with pytest.raises(
        CalibrationError, match=r"does not take inputs of torch\.float32, torch\.float64.*Convert"
    ):
        sc.prune(
            model, mixed, method=sc.SNP(), budget=sc.Budget(macs=0.5), calibration=[mixed], progress=False
        )
    labels = torch.zeros(64, dtype=torch.long)
    with pytest.raises(DataError, match=r"torch\.float64, torch\.int64: .*Convert them"):
        sc.finetune(nn.Linear(6, 3), [(x.double(), labels)], epochs=1)
    train_on = sc.Training([(x.double(), labels)], nn.CrossEntropyLoss(), epochs=2)
    with pytest.raises(DataError, match="Convert them"):
        sc.prune(
            nn.Linear(6, 3),
            x[:2],
            method=sc.GradualMagnitude(every=1),
            budget=sc.Budget(weights=0.5),
            training=train_on,
            progress=False,
        )
