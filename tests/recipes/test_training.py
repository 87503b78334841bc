"""Recipes of methods that train: what they may say, what they become, and a run that is interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from secateur.recipes.registry import Samples
from secateur.recipes.training import training_method_of, training_of
from secateur.recipes.training_schema import TrainingMethodSpec
from torch import nn
from typer.testing import CliRunner

import secateur as sc
from secateur import training as room
from secateur.cli import app
from secateur.ground.errors import CheckpointError, DataError, RecipeError
from secateur.recipes import parse_recipe, shipped
from secateur.recipes.run import run

MODULE = """
import torch
from secateur.recipes.registry import Samples

torch.manual_seed(0)
X = torch.randn(320, 6)
Y = (X @ torch.randn(6, 3)).argmax(1)

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))

def score(model):
    return float((model(X[:64]).argmax(1) == Y[:64]).float().mean())

def samples():
    pairs = list(zip(X[64:].split(32), Y[64:].split(32)))
    return Samples([X[64:]], score, pairs, score)

def loss(outputs, labels):
    if FAIL:
        raise RuntimeError("killed")
    return torch.nn.functional.cross_entropy(outputs, labels)

FAIL = False
"""
TRAINING: dict[str, Any] = {"epochs": 2, "iterations": 2, "optimizer": {"lr": 0.02}}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "mine_for_training.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return {
        "model": "mine_for_training:build",
        "data": "mine_for_training:samples",
        "method": "nn-relief",
        "training": TRAINING,
        "threads": 1,
    }


METHODS: list[tuple[dict[str, Any], Any]] = [
    (
        {"name": "irrelevance-decay", "gamma": 0.1, "fading": 5},
        sc.IrrelevanceDecay(0.1, schedule=room.Fading(5)),
    ),
    ({"name": "weight-decay", "p": 1, "crop": 0.2}, sc.WeightDecay(p=1, crop=0.2)),
    (
        {"name": "gradual-magnitude", "share": 0.5, "layer_wise": True},
        sc.GradualMagnitude(0.5, scope=room.LayerWise()),
    ),
    ({"name": "lobster", "tolerance": 0.1}, sc.Lobster(tolerance=0.1)),
    ({"name": "nn-relief", "alpha_conv": 0.9, "samples": 10}, sc.NNRelief(alpha_conv=0.9, samples=10)),
]


@pytest.mark.parametrize(("spec", "method"), METHODS, ids=[m[0]["name"] for m in METHODS])
def test_methods(mine: dict[str, Any], spec: dict[str, Any], method: Any) -> None:
    parsed = parse_recipe(mine | {"method": spec}).method
    assert isinstance(parsed, TrainingMethodSpec)
    assert training_method_of(parsed) == method


def test_options(mine: dict[str, Any], tmp_path: Path) -> None:
    save_file({"0.weight": torch.ones(16, 6)}, tmp_path / "initial.safetensors")
    recipe = parse_recipe(
        mine
        | {
            "output": "out",
            "training": {
                "iterations": 3,
                "finetune": 1,
                "loss": "mine_for_training:loss",
                "optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.9},
                "schedule": {"name": "multi-step", "epochs": [2, 3]},
                "bound": {"drop": 0.1},
                "patience": 4,
                "teacher": {"weight": 0.5},
                "rewind": "initial.safetensors",
                "bf16": True,
                "every": 9,
            },
        }
    )
    net = nn.Linear(2, 2)
    measure = lambda model: 1.0  # noqa: E731
    made = training_of(recipe, net, Samples([], None, [1, 2], measure), resume=True)
    assert made.loader == [1, 2]
    assert made.loss.__name__ == "loss"  # type: ignore[attr-defined]
    assert (made.iterations, made.finetune, made.bf16) == (3, 1, True)
    assert made.validation == sc.Validation(measure, sc.Bound(drop=0.1), 4)
    assert made.schedule == sc.training.MultiStep((2, 3))
    assert made.teacher == sc.Teacher(net, weight=0.5)
    assert made.checkpoints == sc.Checkpoints(Path("out.run"), True, 9)
    assert made.rewind is not None
    optimizer = made.optimizer(list(net.parameters()))
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["nesterov"]


@pytest.mark.parametrize(
    ("schedule", "made"),
    [
        ("constant", sc.training.Constant()),
        ({"name": "cosine", "warmup": 1}, sc.training.Cosine(1)),
        ("one-cycle", sc.training.OneCycle()),
    ],
)
def test_schedules(mine: dict[str, Any], schedule: Any, made: Any) -> None:
    recipe = parse_recipe(mine | {"training": {"schedule": schedule}})
    assert training_of(recipe, nn.Linear(1, 1), Samples([], None, []), resume=False).schedule == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": None}, "nn-relief prunes while it trains.*'training'"),
        ({"method": "snp", "budget": {"macs": 0.5}}, "snp prunes without training.*leave"),
        ({"training": {"epoch": 3}}, r"unknown key 'training\.epoch'.*Did you mean 'epochs'\?"),
        ({"training": {"epochs": 0}}, r"training\.epochs"),
        ({"training": {"bound": {"above": 0.9, "drop": 0.1}}}, "exactly one of above and drop"),
        ({"training": {"optimizer": {"name": "adam", "momentum": 0.9}}}, "momentum is for sgd"),
        ({"training": {"schedule": "cosin"}}, "cosin"),
        ({"streams": True}, "nn-relief has no use for the key 'streams'"),
        ({"method": {"name": "nn-relief", "alpha_conv": 0.0}}, r"method\.alpha_conv"),
        ({"method": "nn-releif"}, "Did you mean 'nn-relief'"),
    ],
)
def test_mistakes(mine: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(mine | change)


def test_data(tmp_path: Path) -> None:
    arrays = {"train_x": np.random.rand(40, 3).astype(np.float32), "train_y": np.arange(40) % 2}
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    base = {"model": "x:y", "method": "nn-relief", "training": {"batch": 9}}

    def loader(name: str, **more: Any) -> sc.Training:
        recipe = parse_recipe(base | {"data": name, "training": {"batch": 9, **more}})
        return training_of(recipe, nn.Linear(1, 1), Samples([]), resume=False)

    made = loader(str(tmp_path / "a.npz"), bound=0.5)
    assert [len(x) for x, _ in made.loader] == [9] * 4
    assert made.validation is not None
    held = {tuple(row) for x, _ in made.validation.measure for row in x.tolist()}  # type: ignore[union-attr]
    seen = {tuple(row) for x, _ in made.loader for row in x.tolist()}
    assert len(held) == 4
    assert not held & seen
    with pytest.raises(DataError, match="no labelled training data"):
        loader("demo")
    np.savez(tmp_path / "b.npz", calibration=arrays["train_x"])
    with pytest.raises(DataError, match="no arrays train_x and train_y"):
        loader(str(tmp_path / "b.npz"))
    np.savez(tmp_path / "c.npz", train_x=arrays["train_x"], train_y=np.arange(3))
    with pytest.raises(DataError, match="40 inputs train_x and 3 labels"):
        loader(str(tmp_path / "c.npz"))
    recipe = parse_recipe(base | {"data": "x:y", "training": {"bound": 0.5}})
    with pytest.raises(DataError, match="bound and patience"):
        training_of(recipe, nn.Linear(1, 1), Samples([], None, []), resume=False)


def test_an_interrupted_run_goes_on(mine: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import mine_for_training  # type: ignore[import-not-found]

    recipe = parse_recipe(
        mine
        | {"output": "out", "training": TRAINING | {"loss": "mine_for_training:loss", "bound": {"drop": 1.0}}}
    )
    unbroken = run(parse_recipe(recipe.model_dump() | {"output": "other"}), progress=False)
    steps = 0

    def failing(outputs: Any, labels: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 20:
            raise RuntimeError("killed")
        return nn.functional.cross_entropy(outputs, labels)

    failing.__module__, failing.__qualname__ = "mine_for_training", "loss"
    with monkeypatch.context() as patch:
        patch.setattr(mine_for_training, "loss", failing)
        with pytest.raises(RuntimeError, match="killed"):
            run(recipe, progress=False)
    with pytest.raises(CheckpointError, match="--resume"):
        run(recipe, progress=False)
    resumed = run(recipe, progress=False, resume=True)
    for a, b in zip(resumed.model.parameters(), unbroken.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert resumed.report.sparsity is not None
    assert resumed.recipe["method"]["name"] == "nn-relief"


def test_nothing_to_resume(mine: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="Nothing to resume"):
        run(parse_recipe(mine), progress=False, resume=True)
    one_shot = {k: v for k, v in mine.items() if k not in ("training", "method")} | {"budget": {"macs": 0.5}}
    with pytest.raises(RecipeError, match="nothing to resume"):
        run(parse_recipe(one_shot), progress=False, resume=True)


def test_from_the_command_line(mine: dict[str, Any], tmp_path: Path) -> None:
    import yaml

    (tmp_path / "r.yaml").write_text(yaml.safe_dump(mine | {"output": "sparse"}))
    result = CliRunner().invoke(app, ["prune", "r.yaml", "--quiet"])
    assert result.exit_code == 0, result.output
    assert "connections" in result.output
    assert (tmp_path / "sparse.run" / "log.csv").is_file()
    assert (tmp_path / "sparse" / "report.html").is_file()
    again = CliRunner().invoke(app, ["prune", "r.yaml", "--quiet", "--resume"])
    assert again.exit_code == 0, again.output


def test_the_shipped_recipe() -> None:
    import yaml

    recipe = parse_recipe(yaml.safe_load(shipped()["resnet20-cifar10-sparse"]))
    assert recipe.training is not None
    assert recipe.training.iterations == 10
