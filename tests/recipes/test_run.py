"""Runs of recipes that remove units, with models and data that the user's own functions make."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stopwatches import Analytic
from torch import nn

import secateur as sc
from secateur.ground.errors import CalibrationError, RecipeError, UnknownNameError
from secateur.methods.kinds import units
from secateur.recipes import parse_recipe
from secateur.recipes.run import run, write

MODULE = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))

def stream(pairs=False):
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        x = torch.rand(32, 6, generator=generator)
        yield (x, torch.zeros(32)) if pairs else x

def nothing():
    return []

def names():
    return [{"x": torch.zeros(1, 6)}]

def score(model):
    return 0.25

def double():
    return build().double()

def doubles():
    return [x.double() for x in stream()]
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A recipe whose model and data are functions of the user's."""
    (tmp_path / "mine_for_run.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return {
        "model": "mine_for_run:build",
        "data": "mine_for_run:stream",
        "budget": {"macs": 0.5},
        "threads": 1,
    }


def linear(model: nn.Module, name: str) -> nn.Linear:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


def test_a_recipe_makes_a_smaller_model(mine: dict[str, Any]) -> None:
    result = run(parse_recipe(mine | {"evaluate": "mine_for_run:score"}), progress=False)
    assert linear(result.model, "0").out_features <= 8
    assert result.report.scores is not None
    assert result.report.scores.dense == 0.25
    assert result.report.after.macs <= 0.5 * result.report.before.macs


def test_distillation_is_scored_by_itself(mine: dict[str, Any]) -> None:
    recipe = mine | {"evaluate": "mine_for_run:score", "distill": {"steps": 3}}
    result = run(parse_recipe(recipe), progress=False)
    assert result.report.scores is not None
    assert result.report.scores.distilled == 0.25
    assert result.recipe["distill"] == {
        "steps": 3,
        "lr": 0.001,
        "batch": 64,
        "augment": {"shift": 0.125, "flip": True, "mix": 0.5},
        "seconds": None,
        "memory": 1 << 30,
        "checkpoints": None,
    }


@pytest.mark.parametrize("pairs", [False, True])
def test_one_shot_batches_and_labels_are_no_obstacle(mine: dict[str, Any], pairs: bool) -> None:
    data = {"name": "mine_for_run:stream", "kwargs": {"pairs": pairs}}
    assert linear(run(parse_recipe(mine | {"data": data}), progress=False).model, "0").out_features <= 8


def test_options_arrive(mine: dict[str, Any]) -> None:
    recipe = mine | {
        "limits": {"round_to": 4},
        "budget": {"params": 0.8},
        "method": {"name": "magnitude", "recovery": None},
    }
    result = run(parse_recipe(recipe | {"example": [2, 6]}), progress=False)
    assert linear(result.model, "0").out_features in (4, 8, 12)
    assert result.report.scores is None
    with pytest.raises(UnknownNameError, match="nothing_like_this"):
        run(parse_recipe(mine | {"limits": {"exclude": ["nothing_like_this*"]}}), progress=False)


def test_widths_arrive(mine: dict[str, Any]) -> None:
    limits = {"keep": {"0": 0.3}, "uniform": True}
    result = run(parse_recipe(mine | {"limits": limits}), progress=False)
    assert linear(result.model, "0").out_features == 5
    assert result.recipe["limits"]["keep"] == {"0": 0.3}
    assert result.recipe["limits"]["uniform"] is True


@pytest.mark.parametrize("unit", ["latency", "latency_ms", "bytes"])
def test_other_budgets(mine: dict[str, Any], unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    timer = Analytic(1e4, 1.0)
    for module in (
        units,
        sys.modules["secateur.prune"],
    ):  # where shapes are chosen, and where the last is held
        monkeypatch.setattr(module, "Stopwatch", lambda: timer)
    result = run(
        parse_recipe(mine | {"budget": {unit: 0.8 if unit != "latency_ms" else 2.0}}), progress=False
    )
    x = torch.zeros(1, 6)
    dense, pruned = timer.models([dense_model(), result.model], (x,))
    found = {"latency": pruned / dense, "latency_ms": pruned / 2.5, "bytes": result.report.ratios()["bytes"]}
    assert found[unit] is not None
    assert 0.7 <= found[unit] <= 0.8
    assert unit in result.recipe["budget"]


def dense_model() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def test_excluded_types_stay(mine: dict[str, Any]) -> None:
    with pytest.raises(sc.SecateurError):  # all layers are excluded: the budget cannot be met
        run(parse_recipe(mine | {"limits": {"exclude": [{"type": "Linear"}]}}), progress=False)


@pytest.mark.parametrize(("name", "error"), [("nothing", CalibrationError), ("names", RecipeError)])
def test_data_that_cannot_calibrate(mine: dict[str, Any], name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        run(parse_recipe(mine | {"data": f"mine_for_run:{name}"}), progress=False)


def test_npz_accuracy_is_measured(mine: dict[str, Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.random((60, 6)).astype(np.float32)
    np.savez(
        tmp_path / "s.npz", calibration=rng.random((90, 6)).astype(np.float32), x=x, y=rng.integers(0, 3, 60)
    )
    result = run(parse_recipe(mine | {"data": {"name": "s.npz", "batch": 30}}), progress=False)
    assert result.report.scores is not None
    assert result.report.scores.recovered is not None


def test_threads_are_restored(mine: dict[str, Any]) -> None:
    before = torch.get_num_threads()
    run(parse_recipe(mine | {"threads": 2}), progress=False)
    assert torch.get_num_threads() == before


def test_the_example_is_of_the_type_of_the_data(mine: dict[str, Any]) -> None:
    change = {"model": "mine_for_run:double", "data": "mine_for_run:doubles", "example": [2, 6]}
    result = run(parse_recipe(mine | change), progress=False)
    assert linear(result.model, "0").weight.dtype is torch.float64


def test_options_of_data_that_have_no_use_are_refused(mine: dict[str, Any]) -> None:
    for option in ({"augment": "shift"}, {"folder": "data"}):
        with pytest.raises(RecipeError, match=rf"data\.{next(iter(option))} .*leave it out"):
            run(parse_recipe(mine | {"data": {"name": "mine_for_run:stream"} | option}), progress=False)


def test_what_is_written_says_how_to_run_it_again(mine: dict[str, Any], tmp_path: Path) -> None:
    recipe = parse_recipe(mine | {"output": "small", "pack": "small.sec"})
    result = run(recipe, progress=False)
    packed = write(recipe, result)
    assert packed is not None
    assert packed.bytes == (tmp_path / "small.sec").stat().st_size
    assert parse_recipe(result.recipe) == replace(recipe, example=(1, 6))  # where the data are not at hand
    assert result.report.model == "mine_for_run:build"
    assert write(parse_recipe(mine), result) is None
