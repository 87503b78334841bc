"""Recipes of blocks: what they may say, what they become, and methods one after the other up to the packed file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from secateur.recipes.structure import admm_of, compensation_of, criterion_of, structure_of
from secateur.recipes.structure_schema import ADMMSpec, MicroStructureSpec
from torch import nn
from typer.testing import CliRunner

import secateur as sc
from secateur.blocks import SKIPPED, UNIFY, ZERO, Place, PruneFirst, Reshape
from secateur.cli import app
from secateur.ground.errors import RecipeError, UnknownNameError
from secateur.methods import OutputError, WeightError
from secateur.recipes import parse_recipe, shipped
from secateur.recipes.run import run

MODULE = """
import torch
from secateur.recipes.registry import Samples

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

def samples():
    return Samples([X[64:]], score, list(zip(X[64:].split(32), Y[64:].split(32))), score)
"""
UNITS = {"method": "snp", "budget": {"macs": 0.5}}
ZEROS = {"name": "micro-structure", "zero": 0.7, "skip": []}
BOTH = ZEROS | {"unify": 0.15}
ADMM = {"name": "admm", "zero": 0.7, "skip": [], "epochs": 1}


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


def test_options() -> None:
    assert structure_of(MicroStructureSpec(name="micro-structure")) == sc.MicroStructured()
    data: dict[str, Any] = {
        "model": "x:y",
        "data": "x:y",
        "method": {
            "name": "micro-structure",
            "block": "4x1",
            "reshape": "inputs",
            "zero": 0.5,
            "unify": 0.25,
            "shares": {"layer1.*": {"zero": 0.2}},
            "blocks": {"fc": "4x4"},
            "skip": ["stem", {"type": "Embedding"}, {"place": "head"}],
            "spread": "across-layers",
            "most": 0.9,
            "assignment": "prune-first",
            "criterion": "outputs",
            "recovery": "none",
        },
        "budget": {"bytes": 0.5},
    }
    spec = parse_recipe(data).method
    assert isinstance(spec, MicroStructureSpec)
    assert structure_of(spec) == sc.MicroStructured(
        sc.Block(4, 1, reshape=Reshape.INPUTS),
        0.5,
        0.25,
        shares={"layer1.*": sc.blocks.Shares(0.2)},
        blocks={"fc": sc.Block(4, 4, reshape=Reshape.INPUTS)},
        skip=("stem", nn.Embedding, Place.HEAD),
        assignment=PruneFirst(),
        spread=sc.blocks.AcrossLayers(0.9),
    )
    assert (criterion_of(spec), compensation_of(spec)) == (OutputError(), None)
    plain = MicroStructureSpec(name="micro-structure", sweeps=3)
    assert (criterion_of(plain), compensation_of(plain)) == (WeightError(), sc.Compensate(3))
    with pytest.raises(UnknownNameError, match="Did you mean 'Linear'"):
        structure_of(MicroStructureSpec.model_validate(ZEROS | {"skip": {"type": "Linaer"}}))


def test_admm() -> None:
    spec = ADMMSpec.model_validate(
        {"name": "admm", "block": "4x4", "zero": 0.5, "unify": 0.1, "epochs": 2, "rhos": [0.1, 1], "every": 2}
    )
    structure = sc.MicroStructured(sc.Block(4, 4), 0.5, 0.1, skip=SKIPPED)
    assert admm_of(spec) == sc.ADMM(structure, 2, (0.1, 1.0), 2)
    first = spec.model_copy(update={"prune_first": True, "tied": False})
    assert admm_of(first) == sc.ADMM.prune_first(structure, 2, rhos=(0.1, 1.0), every=2, tied=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": ZEROS | {"block": "8by1"}}, r"method\.block: '8by1' is no block: write rows x columns"),
        ({"method": ZEROS | {"block": "0x1"}}, r"method\.block"),
        ({"method": ZEROS | {"zero": 1.2}}, r"method\.zero"),
        ({"method": ZEROS | {"unify": 0.4}}, r"more than all blocks together"),
        ({"method": ZEROS | {"blok": "8x1"}}, r"unknown key 'method\.blok'.*Did you mean 'block'"),
        ({"method": ZEROS | {"skip": [{"place": "last"}]}}, r"method\.skip\.0\.place"),
        ({"method": ZEROS | {"skip": [{}]}}, r"method\.skip\.0: name exactly one of type and place"),
        ({"method": ZEROS, "training": {}}, "micro-structure prunes without training"),
        ({"method": ZEROS, "budget": {"params": 0.5}}, "shares of macs or bytes"),
        ({"method": ZEROS, "streams": True}, "micro-structure has no use for the key 'streams'"),
        ({"method": ADMM}, "admm prunes while it trains"),
        ({"method": ADMM, "training": {}, "budget": {"weights": 0.1}}, "leave the key 'budget' out"),
        (UNITS | {"then": [UNITS]}, r"then\.0: snp removes units, which only the first method may"),
        (UNITS | {"then": [{"method": ADMM}]}, r"then\.0: admm prunes while it trains"),
        (UNITS | {"then": [{"metod": ADMM}]}, r"unknown key 'then\.0\.metod'.*Did you mean 'method'"),
        (UNITS | {"then": [{"method": ZEROS | {"zro": 0}}]}, r"'then\.0\.method\.zro'.*Did you mean 'zero'"),
        (
            UNITS | {"then": [{"method": BOTH}, {"method": ADMM, "training": {}}]},
            "admm would part the unified",
        ),
        (
            UNITS | {"then": [{"method": ZEROS}, {"method": ZEROS | {"zero": 0.5}}]},
            r"zero=0\.5 after zero=0\.7",
        ),
        (UNITS | {"pack": "a.sec"}, "'output' is missing"),
        (UNITS | {"output": "a", "pack": {"file": "a.sec", "exclude": ["x"]}}, r"pack: .*add bits"),
    ],
)
def test_mistakes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe({"model": "x:y", "data": "x:y"} | change)


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
    assert found["accuracy"]["dense"] is not None
    expected = run(parse_recipe(recipe), progress=False)
    for pattern in expected.plan.patterns.values():
        assert pattern.share(ZERO) == pytest.approx(0.7, abs=0.05)
        assert pattern.share(UNIFY) == pytest.approx(0.15, abs=0.05)
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for path in ("small", "small.sec"):
            assert torch.equal(sc.load(tmp_path / path, build)(x), expected.model(x))
    kept = yaml.safe_load((tmp_path / "small" / "recipe.yaml").read_text())
    assert parse_recipe(kept) == parse_recipe(recipe)


def test_units_then_admm_goes_on_after_an_interruption(mine: dict[str, Any], tmp_path: Path) -> None:
    training = {"epochs": 3, "optimizer": {"lr": 0.01}, "teacher": {}}
    recipe = mine | UNITS | {"then": [{"method": ADMM, "training": training}], "output": "a"}
    first = run(parse_recipe(recipe), progress=False)
    assert (tmp_path / "a.run2" / "log.csv").is_file()
    assert all(p.share(ZERO) == pytest.approx(0.7, abs=0.05) for p in first.plan.patterns.values())
    again = run(parse_recipe(recipe), progress=False, resume=True)
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.report.scores is not None
    assert first.report.scores.finetuned is not None


def test_a_value_of_a_later_method_can_be_set(mine: dict[str, Any], tmp_path: Path) -> None:
    from secateur.recipes import load_recipe

    (tmp_path / "r.yaml").write_text(yaml.safe_dump(mine | UNITS | {"then": [{"method": "micro-structure"}]}))
    recipe = load_recipe(tmp_path / "r.yaml", ["then.0.method.zero=0.9"])
    assert isinstance(recipe.then[0].method, MicroStructureSpec)
    assert recipe.then[0].method.zero == 0.9
    for wrong in ("then.1.method.zero=0.9", "then.zero=1", "then.0=1"):
        with pytest.raises(RecipeError, match=r"then\.0\.KEY=VALUE"):
            load_recipe(tmp_path / "r.yaml", [wrong])


@pytest.mark.parametrize("name", ["resnet20-cifar10-blocks", "resnet20-cifar10-admm"])
def test_the_shipped_recipes(name: str) -> None:
    recipe = parse_recipe(yaml.safe_load(shipped()[name]))
    assert recipe.pack is not None
    for step in recipe.steps:
        if isinstance(step.method, ADMMSpec):
            assert step.training is not None
            assert step.training.epochs > admm_of(step.method).least_epochs


def test_a_shipped_recipe_runs_where_its_output_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet20-cifar10-blocks").mkdir()
    done = CliRunner().invoke(app, ["prune", "resnet20-cifar10-blocks", "--set", "no=1"])
    assert isinstance(done.exception, RecipeError)
    assert "unknown key 'no'" in str(done.exception)
