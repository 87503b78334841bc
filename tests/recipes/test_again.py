"""The recipe.yaml of a run from Python runs again, once it names the model and the data: the same plan and weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import secateur as sc
from secateur.artefact.load import read
from secateur.blocks import Shares
from secateur.cli import app
from secateur.ground.documents import parse_yaml, to_yaml
from secateur.measure.metric import Metric, MetricFormat
from secateur.methods import OutputError
from secateur.recipes import parse_recipe
from secateur.recipes.recipe import write_recipe
from secateur.training import SGD, Cosine

MODULE = """
import torch
from secateur.recipes import Samples

torch.manual_seed(0)
X = torch.randn(320, 8)
Y = (X @ torch.randn(8, 4)).argmax(1)
PAIRS = list(zip(X[64:].split(32), Y[64:].split(32)))

def build():
    torch.manual_seed(0)
    sizes = (8, 32, 32, 32, 4)
    layers = [torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]
    return torch.nn.Sequential(*[m for layer in layers for m in (layer, torch.nn.ReLU())][:-1]).eval()

def score(model):
    return float((model(X[:64]).argmax(1) == Y[:64]).float().mean())

def loss(outputs, labels, smoothing=0.0):
    return torch.nn.functional.cross_entropy(outputs, labels, label_smoothing=smoothing)

def samples():
    return Samples(X[64:].split(64), None, PAIRS, PAIRS[:2])
"""

Start = Callable[..., sc.Result]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "mine_again.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    import mine_again  # type: ignore[import-not-found]

    made: ModuleType = mine_again
    return made


def start(mine: ModuleType, calibrated: bool = True) -> Start:
    """Return `prune` on her model and data."""
    return partial(
        sc.prune,
        mine.build(),
        mine.X[:3],
        calibration=mine.X[64:].split(64) if calibrated else None,
        progress=False,
    )


def run_again(result: sc.Result, **more: Any) -> dict[str, Any]:
    """Save a result, name model and data in its recipe, run that, and check that the artefacts hold the same."""
    result.save("first")
    recipe: Any = parse_yaml(Path("first/recipe.yaml").read_text(), "recipe.yaml")
    assert not {"model", "data"} & set(recipe)
    named = recipe | {"model": "mine_again:build", "data": "mine_again:samples", "output": "second"} | more
    Path("again.yaml").write_text(to_yaml(named))
    done = CliRunner().invoke(app, ["prune", "again.yaml", "--quiet"])
    assert done.exit_code == 0, (done.output, done.exception)
    first, second = read("first"), read("second")
    assert first.plan.kept == second.plan.kept
    assert first.plan.edits == second.plan.edits
    assert first.plan.patterns.keys() == second.plan.patterns.keys()
    for name, pattern in first.plan.patterns.items():
        assert torch.equal(pattern.states, second.plan.patterns[name].states)
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name]), name
    assert first.report["method"] == second.report["method"]
    assert first.report["budget"] == second.report["budget"]
    assert write_recipe(parse_recipe(dict(second.recipe))) == second.recipe  # which runs again as well
    assert write_recipe(parse_recipe(named)) == second.recipe
    checked: dict[str, Any] = recipe
    return checked


def test_units(mine: ModuleType) -> None:
    result = start(mine)(
        method=sc.SNP(recovery=sc.Sequential(sweeps=4)),
        budget=sc.Budget(macs=0.5),
        limits=sc.Limits(exclude=("4", nn.Conv2d), keep={"0": 20}, round_to=2),
        distill=sc.Distill(steps=7, lr=1e-2),
        evaluate=mine.score,
        metric=Metric("agreement", format=MetricFormat.NUMBER),
        batch_dims=0,
        seed=3,
    )
    recipe = run_again(result)
    assert recipe["limits"]["exclude"] == ["4", {"type": "Conv2d"}]
    assert recipe["distill"]["steps"] == 7
    assert (recipe["seed"], recipe["evaluate"], recipe["batch_dims"]) == (3, "mine_again:score", 0)
    assert recipe["metric"] == {"name": "agreement", "higher_is_better": True, "format": "number"}
    assert read("second").report["metric"] == read("first").report["metric"]
    assert recipe["budget"] == {"macs": 0.5}
    assert read("second").report["scores"] == read("first").report["scores"]


@pytest.mark.parametrize(
    "method",
    [sc.SNP.paper(), sc.Magnitude(p=2, recovery=sc.OnePass()), sc.Random(5), sc.Fluctuation(), sc.Taylor()],
    ids=lambda method: type(method).__name__,
)
def test_other_criteria(mine: ModuleType, method: sc.methods.Method) -> None:
    run_again(start(mine)(method=method, budget=sc.Budget(params=500)))


def training(mine: ModuleType, **options: Any) -> sc.Training:
    return sc.Training(
        mine.PAIRS, **{"epochs": 2, "optimizer": SGD(0.05, 0.9), "schedule": Cosine(), **options}
    )


@pytest.mark.parametrize("calibrated", [True, False])
def test_weights(mine: ModuleType, calibrated: bool) -> None:
    """Connections are scored on calibration data, where such were given, else on those that it trains on."""
    options = training(
        mine,
        iterations=2,
        finetune=1,
        loss=partial(mine.loss, smoothing=0.1),
        optimizer=partial(torch.optim.Adam, lr=0.01),
        validation=sc.Validation(mine.score, sc.Bound(drop=0.9), patience=3),
        teacher=sc.Teacher(mine.build(), temperature=2.0),
        checkpoints=sc.Checkpoints("kept"),
    )
    method = sc.NNRelief(alpha_linear=0.9, samples=100)
    recipe = run_again(start(mine, calibrated)(method=method, training=options, seed=1))
    assert recipe["training"]["loss"] == {"call": "mine_again:loss", "smoothing": 0.1}
    assert recipe["training"]["validation"]["measure"] == "mine_again:score"
    assert recipe.get("calibration") is (None if calibrated else False)


@pytest.mark.parametrize(
    "method",
    [
        sc.IrrelevanceDecay(1e-3),
        sc.methods.WeightDecay(p=1),
        sc.GradualMagnitude(0.5, every=2, scope=sc.training.LayerWise(), vectors=True, only=(nn.Linear,)),
        sc.methods.Lobster(),
    ],
    ids=lambda method: type(method).__name__,
)
def test_other_methods_that_train(mine: ModuleType, method: sc.methods.Method) -> None:
    validation = sc.Validation(mine.PAIRS[:2], sc.Bound(0.0))  # the data's own, in a recipe
    budget = sc.Budget(weights=0.6)
    run_again(
        start(mine, False)(
            method=method, training=training(mine, iterations=3, validation=validation), budget=budget
        )
    )


@pytest.mark.parametrize("calibrated", [True, False])
def test_blocks(mine: ModuleType, calibrated: bool) -> None:
    method = sc.MicroStructured(
        sc.Block(4, 1),
        0.5,
        0.2,
        shares={"2": Shares(0.3)},
        blocks={"4": sc.Block(2, 2)},
        skip=("0", sc.blocks.Place.HEAD),
        criterion=OutputError(),
        recovery=sc.Compensate(sweeps=3),
    )
    recipe = run_again(start(mine, calibrated)(method=method))
    assert recipe["method"]["skip"] == ["0", {"place": "head"}]
    assert recipe.get("calibration") is (None if calibrated else False)


def test_a_budget_of_blocks(mine: ModuleType) -> None:
    method = sc.MicroStructured(sc.Block(4, 1), spread=sc.blocks.AcrossLayers(0.9))
    recipe = run_again(start(mine)(method=method, budget=sc.Budget(bytes=0.6)))
    assert recipe["budget"] == {"bytes": 0.6}


def test_three_methods_one_after_the_other(mine: ModuleType) -> None:
    units = start(mine)(method=sc.SNP(), budget=sc.Budget(macs=0.7), seed=2)
    zeros = sc.MicroStructured(sc.Block(4, 1), zero=0.5)
    sparse = sc.prune(
        units,
        mine.X[:3],
        method=sc.ADMM(zeros, epochs=1),
        training=training(mine, teacher=sc.Teacher(mine.build())),
        seed=5,
        progress=False,
    )
    both = sc.prune(
        sparse,
        mine.X[:3],
        method=sc.MicroStructured(sc.Block(4, 1), zero=0.5, unify=0.25),
        calibration=mine.X[64:].split(64),
        seed=2,
        progress=False,
    )
    recipe = run_again(both)
    assert [step["method"]["name"] for step in recipe["then"]] == ["admm", "micro-structured"]
    assert [step.get("seed") for step in recipe["then"]] == [5, None]
    assert [step.get("calibration") for step in recipe["then"]] == [False, None]


def test_dead_units(mine: ModuleType) -> None:
    net = mine.build()
    with torch.no_grad():
        net[2].weight[:, :5] = 0
    save_file(net.state_dict(), "sparse.safetensors")
    result = sc.prune(net, mine.X[:3], method=sc.DeadUnits(), progress=False)
    recipe = run_again(result, model={"name": "mine_again:build", "weights": "sparse.safetensors"})
    assert recipe["method"] == "dead-units"
    assert read("second").plan.kept


def test_what_a_file_cannot_say_is_refused_with_the_remedy(mine: ModuleType) -> None:
    """It is written as it is called, so that a reader sees what was run."""
    result = start(mine, False)(
        method=sc.NNRelief(), training=training(mine, loss=lambda outputs, labels: outputs.square().mean())
    )
    result.save("first")
    recipe: Any = parse_yaml(Path("first/recipe.yaml").read_text(), "recipe.yaml")
    assert recipe["training"]["loss"].endswith("<lambda>")
    Path("again.yaml").write_text(
        to_yaml(recipe | {"model": "mine_again:build", "data": "mine_again:samples"})
    )
    done = CliRunner().invoke(app, ["prune", "again.yaml"])
    assert "training.loss: " in str(done.exception)
    assert "<lambda> cannot be imported: put it into a module of yours" in str(done.exception)
    settings = ["--set", "training.loss=mine_again:loss", "--quiet"]
    assert CliRunner().invoke(app, ["prune", "again.yaml", *settings]).exit_code == 0
