"""Methods one after the other in one recipe, up to the packed file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import secateur as sc
from secateur.blocks import UNIFY, ZERO
from secateur.cli import app
from secateur.ground.documents import parse_yaml
from secateur.ground.errors import RecipeError
from secateur.recipes import parse_recipe
from secateur.recipes.run import run

MODULE = """
import torch
from secateur.recipes import Samples

torch.manual_seed(0)
X = torch.randn(320, 8)
Y = (X @ torch.randn(8, 4)).argmax(1)

def build():
    torch.manual_seed(0)
    sizes = (8, 32, 32, 32, 4)
    layers = [torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]
    return torch.nn.Sequential(*[m for layer in layers for m in (layer, torch.nn.ReLU())][:-1])

def score(model):
    return float((model(X[:64]).argmax(1) == Y[:64]).float().mean())

class Shuffled:
    def __iter__(self):
        for index in torch.randperm(256).split(32):
            yield X[64:][index], Y[64:][index]

def shuffled():
    return Samples([X[64:]], score, Shuffled(), score)

def samples():
    return Samples([X[64:]], score, list(zip(X[64:].split(32), Y[64:].split(32))), score)
"""
UNITS = {"method": "snp", "budget": {"macs": 0.5}}
ZEROS = {"name": "micro-structured", "zero": 0.7, "skip": []}
BOTH = ZEROS | {"unify": 0.15}
ADMM = {"name": "admm", "structure": {"zero": 0.7, "skip": []}, "epochs": 1}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "mine_for_blocks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return {"model": "mine_for_blocks:build", "data": "mine_for_blocks:samples", "threads": 1}


def build() -> nn.Module:
    import mine_for_blocks  # type: ignore[import-not-found]

    made: nn.Module = mine_for_blocks.build()
    return made


def test_units_zeros_unified_blocks_and_one_small_file(mine: dict[str, Any], tmp_path: Path) -> None:
    """Fewer units, then zero blocks, then unified ones, then packed: one plan, one artefact, from one command."""
    steps = [{"method": ZEROS}, {"method": BOTH}]
    recipe = mine | UNITS | {"then": steps, "output": "small", "pack": "small.sec"}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))  # YAML too, without aliases
    done = CliRunner().invoke(app, ["prune", "r.yaml", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["method"] == "SNP; 8x1 blocks, 70 % zero; 8x1 blocks, 70 % zero, 15 % unified"
    assert found["after"]["macs"] <= 0.5 * found["before"]["macs"]
    assert found["packed"]["bytes"] == (tmp_path / "small.sec").stat().st_size
    assert found["scores"]["dense"] is not None
    expected = run(parse_recipe(recipe), progress=False)
    for pattern in expected.plan.patterns.values():
        assert pattern.share(ZERO) == pytest.approx(0.7, abs=0.05)
        assert pattern.share(UNIFY) == pytest.approx(0.15, abs=0.05)
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for path in ("small", "small.sec"):
            assert torch.equal(sc.load(tmp_path / path, build)(x), expected.model(x))
    kept = parse_yaml((tmp_path / "small" / "recipe.yaml").read_text(), "recipe.yaml")
    assert isinstance(kept, dict)
    assert parse_recipe(kept) == replace(parse_recipe(recipe), example=(1, 8))


def test_units_then_admm_goes_on_after_an_interruption(mine: dict[str, Any], tmp_path: Path) -> None:
    training = {"epochs": 3, "optimizer": {"name": "adam", "lr": 0.01}, "teacher": {}}
    recipe = mine | UNITS | {"then": [{"method": ADMM, "training": training}], "output": "a"}
    first = run(parse_recipe(recipe), progress=False)
    assert (tmp_path / "a.run2" / "log.csv").is_file()
    assert all(p.share(ZERO) == pytest.approx(0.7, abs=0.05) for p in first.plan.patterns.values())
    again = run(parse_recipe(recipe), progress=False, resume=True)
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.report.scores is not None
    assert first.report.scores.finetuned is not None


def test_a_shipped_recipe_runs_where_its_output_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet20-cifar10-blocks").mkdir()
    done = CliRunner().invoke(app, ["prune", "resnet20-cifar10-blocks", "--set", "no=1"])
    assert isinstance(done.exception, RecipeError)
    assert "unknown key 'no'" in str(done.exception)


def test_each_step_has_what_it_says(mine: dict[str, Any]) -> None:
    """Without calibration data blocks are only projected; a seed of its own draws."""
    step = {"method": ZEROS, "calibration": False}
    found = run(parse_recipe(mine | UNITS | {"then": [step]}), progress=False)
    units = run(parse_recipe(mine | UNITS), progress=False)
    for name, pattern in found.plan.patterns.items():
        before = units.model.get_parameter(name)
        assert torch.equal(found.model.get_parameter(name), pattern.project(before))
    drawn = [
        {"method": ADMM, "training": {"optimizer": {"name": "adam", "lr": 0.1}}, "seed": seed}
        for seed in (0, 1)
    ]
    data = "mine_for_blocks:shuffled"
    a, b, again = (
        run(parse_recipe(mine | UNITS | {"data": data, "then": [step]}), progress=False)
        for step in (*drawn, drawn[0])
    )
    same = [
        [torch.equal(x, y) for x, y in zip(a.model.parameters(), other.model.parameters())]
        for other in (b, again)
    ]
    assert not all(same[0])
    assert all(same[1])
