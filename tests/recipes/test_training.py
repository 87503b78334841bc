"""Recipes of methods that train: what `Training` they become, and a run that is interrupted and goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import secateur as sc
from secateur import training as room
from secateur.cli import app
from secateur.ground.documents import to_yaml
from secateur.ground.errors import CheckpointError, DataError, RecipeError
from secateur.recipes import Samples, parse_recipe
from secateur.recipes.recipe import write_recipe
from secateur.recipes.run import run, training_of

MODULE = """
import torch
from secateur.recipes import Samples

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
TRAINING: dict[str, Any] = {"epochs": 2, "iterations": 2, "optimizer": {"name": "adam", "lr": 0.02}}


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
                "validation": {"bound": {"drop": 0.1}, "patience": 4},
                "teacher": {"weight": 0.5},
                "rewind": "initial.safetensors",
                "bf16": True,
                "checkpoints": {"folder": "kept", "every": 9},
            },
        }
    )
    net = nn.Linear(2, 2)
    measure = lambda model: 1.0  # noqa: E731
    made = training_of(recipe, net, Samples([], None, [1, 2], measure), resume=True)
    assert made is not None
    assert made.loader == [1, 2]
    assert made.loss.__name__ == "loss"  # type: ignore[attr-defined]
    assert (made.iterations, made.finetune, made.bf16) == (3, 1, True)
    assert made.validation == sc.Validation(measure, sc.Bound(drop=0.1), 4)
    assert made.schedule == room.MultiStep((2, 3))
    assert made.teacher == sc.Teacher(net, weight=0.5)
    assert made.checkpoints == sc.Checkpoints(Path("kept"), True, 9)
    assert made.rewind is not None
    optimizer = made.optimizer(list(net.parameters()))
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["nesterov"]


@pytest.mark.parametrize(
    ("schedule", "made"),
    [
        ("constant", room.Constant()),
        ({"name": "cosine", "warmup": 1}, room.Cosine(1)),
        ("one-cycle", room.OneCycle()),
    ],
)
def test_schedules(mine: dict[str, Any], schedule: Any, made: Any) -> None:
    recipe = parse_recipe(mine | {"training": {"schedule": schedule}})
    found = training_of(recipe, nn.Linear(1, 1), Samples([], None, []), resume=False)
    assert found is not None
    assert found.schedule == made


@pytest.mark.parametrize("number", [0, 1])
def test_a_run_is_kept_beside_the_output(mine: dict[str, Any], number: int) -> None:
    then = [{"method": "nn-relief", "training": TRAINING}]
    recipe = parse_recipe(mine | {"output": "a/out", "then": then})
    made = training_of(recipe, nn.Linear(1, 1), Samples([], None, []), False, number)
    assert made is not None
    assert made.checkpoints == sc.Checkpoints(Path("a/out.run2" if number else "a/out.run"))


def test_what_validates(mine: dict[str, Any]) -> None:
    """Data that are held out, unless the recipe names a function of its own; a bound needs one of both."""

    def made(validation: Any, measure: Any) -> Any:
        recipe = parse_recipe(mine | {"training": {"validation": validation}})
        found = training_of(recipe, nn.Linear(1, 1), Samples([], None, [], measure), resume=False)
        assert found is not None
        return found.validation

    bound = {"bound": {"above": 0.5}}
    assert made(None, None) is None
    assert made(None, [1]) == sc.Validation([1])
    assert made(bound, [1]) == sc.Validation([1], sc.Bound(0.5))
    with pytest.raises(DataError, match="bound and patience"):
        made(bound, None)
    import mine_for_training

    for measure in (None, [1]):
        found = made(bound | {"measure": "mine_for_training:score"}, measure)
        assert found == sc.Validation(mine_for_training.score, sc.Bound(0.5))
    recipe = parse_recipe(mine | {"training": {"validation": {"measure": "mine_for_training:score"}}})
    assert write_recipe(recipe)["training"]["validation"]["measure"] == "mine_for_training:score"
    assert parse_recipe(write_recipe(recipe)) == recipe
    unsaid = parse_recipe(mine | {"training": {"validation": bound}})
    assert "measure" not in write_recipe(unsaid)["training"]["validation"]


def test_an_interrupted_run_goes_on(mine: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import mine_for_training  # type: ignore[import-not-found]

    data = mine | {
        "output": "out",
        "training": TRAINING | {"loss": "mine_for_training:loss", "validation": {"bound": {"drop": 1.0}}},
    }
    recipe = parse_recipe(data)
    unbroken = run(parse_recipe(write_recipe(recipe) | {"output": "other"}), progress=False)
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
            run(parse_recipe(data), progress=False)  # its names are imported now
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
    (tmp_path / "r.yaml").write_text(to_yaml(mine | {"output": "sparse"}))
    result = CliRunner().invoke(app, ["prune", "r.yaml", "--quiet"])
    assert result.exit_code == 0, result.output
    assert "connections" in result.output
    assert (tmp_path / "sparse.run" / "log.csv").is_file()
    assert (tmp_path / "sparse" / "report.html").is_file()
    again = CliRunner().invoke(app, ["prune", "r.yaml", "--quiet", "--resume"])
    assert again.exit_code == 0, again.output
