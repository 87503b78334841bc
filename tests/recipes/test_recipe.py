"""What a recipe may say, and what it becomes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import secateur as sc
from secateur import training as room
from secateur.blocks import AcrossLayers, Place, PruneFirst, Reshape, Shares
from secateur.ground.errors import RecipeError
from secateur.methods import ZCA, Fading, OutputError
from secateur.methods.names import PlaceName
from secateur.recipes import load_recipe, parse_recipe, shipped
from secateur.recipes.recipe import write_recipe

BASE: dict[str, Any] = {"model": "zoo:resnet20-cifar10", "data": "cifar10", "budget": {"macs": 0.5}}
OWN: dict[str, Any] = {"model": "x:y", "data": "x:y"}
UNITS: dict[str, Any] = {"method": "snp", "budget": {"macs": 0.5}}
SPARSE: dict[str, Any] = {"method": "nn-relief", "training": {}}


def test_names_stand_for_mappings_and_defaults_are_filled_in() -> None:
    recipe = parse_recipe(BASE)
    assert recipe.model.name == "zoo:resnet20-cifar10"
    assert recipe.data.calibration == 1000
    assert recipe.method == sc.SNP()
    assert (recipe.limits, recipe.seed, recipe.calibration) == (sc.Limits(), 0, True)


def test_everything_can_be_said() -> None:
    given = BASE | {
        "example": [1, 3, 32, 32],
        "method": {"name": "magnitude", "p": 2, "recovery": None},
        "limits": {"exclude": ["fc", {"type": "Linear"}, {"type": "torch.nn.Conv2d"}], "keep": {"0": 5}},
        "distill": {"steps": 3},
        "evaluate": "math:sqrt",
        "output": "out",
        "pack": {"file": "out.sec", "quantise": {"bits": 8, "exclude": ["fc*"]}},
        "threads": 2,
        "seed": 7,
    }
    recipe = parse_recipe(given)
    assert recipe.method == sc.Magnitude(p=2)
    assert recipe.limits == sc.Limits(exclude=("fc", nn.Linear, nn.Conv2d), keep={"0": 5})
    assert recipe.distill == sc.Distill(3)
    assert recipe.output == Path("out")
    assert recipe.pack is not None
    assert recipe.pack.quantise == sc.Quantise(8, ("fc*",))
    assert recipe.example == (1, 3, 32, 32)
    assert (recipe.threads, recipe.seed) == (2, 7)
    assert parse_recipe(write_recipe(recipe)) == recipe
    assert parse_recipe(given | {"pack": "out.sec"}).pack == type(recipe.pack)(Path("out.sec"))


@pytest.mark.parametrize(
    ("spec", "method"),
    [
        ("snp", sc.SNP()),
        ("snp-paper", sc.SNP.paper()),
        ({"name": "snp", "order": "zca", "recovery": "one-pass"}, sc.SNP(ZCA(), recovery=sc.OnePass())),
        ({"name": "snp", "recovery": {"name": "sequential", "sweeps": 5}}, sc.SNP(recovery=sc.Sequential(5))),
        ({"name": "snp", "recovery": None}, sc.SNP(recovery=None)),
        ({"name": "magnitude", "p": 2}, sc.Magnitude(p=2)),
        ({"name": "random", "seed": 3, "recovery": "one-pass"}, sc.Random(3, recovery=sc.OnePass())),
        ("batch-norm-scale", sc.BatchNormScale()),
        ({"name": "taylor", "recovery": "one-pass"}, sc.Taylor(recovery=sc.OnePass())),
        (
            {"name": "taylor", "loss": "torch.nn.functional:cross_entropy"},
            sc.Taylor(loss=nn.functional.cross_entropy),
        ),
        ("activation-magnitude", sc.ActivationMagnitude()),
        ("fluctuation", sc.Fluctuation()),
        ("micro-structured", sc.MicroStructured()),
        (
            {
                "name": "micro-structured",
                "block": {"rows": 4, "columns": 1, "reshape": "inputs"},
                "zero": 0.5,
                "unify": 0.25,
                "shares": {"layer1.*": {"zero": 0.2}},
                "blocks": {"fc": "4x4"},
                "skip": ["stem", {"type": "Embedding"}, {"place": "head"}],
                "spread": {"name": "across-layers", "most": 0.9},
                "assignment": "prune-first",
                "criterion": "output-error",
                "recovery": None,
            },
            sc.MicroStructured(
                sc.Block(4, 1, reshape=Reshape.INPUTS),
                0.5,
                0.25,
                shares={"layer1.*": Shares(0.2)},
                blocks={"fc": sc.Block(4, 4)},
                skip=("stem", nn.Embedding, Place.HEAD),
                assignment=PruneFirst(),
                spread=AcrossLayers(0.9),
                criterion=OutputError(),
                recovery=None,
            ),
        ),
        (
            {"name": "micro-structured", "recovery": {"sweeps": 3}},
            sc.MicroStructured(recovery=sc.Compensate(3)),
        ),
    ],
    ids=lambda part: str(part) if isinstance(part, str | dict) else "",
)
def test_methods(spec: Any, method: Any) -> None:
    assert parse_recipe(BASE | {"method": spec}).method == method


@pytest.mark.parametrize(
    ("spec", "method"),
    [
        (
            {"name": "irrelevance-decay", "gamma": 0.1, "schedule": {"name": "fading", "steps": 5}},
            sc.IrrelevanceDecay(0.1, schedule=Fading(5)),
        ),
        ({"name": "weight-decay", "p": 1, "crop": 0.2}, sc.methods.WeightDecay(p=1, crop=0.2)),
        (
            {"name": "gradual-magnitude", "share": 0.5, "scope": "layer-wise"},
            sc.GradualMagnitude(0.5, scope=room.LayerWise()),
        ),
        ({"name": "lobster", "tolerance": 0.1}, sc.methods.Lobster(tolerance=0.1)),
        ({"name": "nn-relief", "alpha_conv": 0.9, "samples": 10}, sc.NNRelief(alpha_conv=0.9, samples=10)),
        (
            {
                "name": "admm",
                "structure": {"block": "4x4", "zero": 0.5, "unify": 0.1},
                "epochs": 2,
                "rhos": [0.1, 1],
                "every": 2,
            },
            sc.ADMM(sc.MicroStructured(sc.Block(4, 4), 0.5, 0.1), 2, (0.1, 1.0), 2),
        ),
        (
            {
                "name": "admm",
                "structure": {"zero": 0.7, "unify": 0.15},
                "stages": [{"zero": 0.7}],
                "epochs": 2,
                "tied": False,
            },
            sc.ADMM.prune_first(sc.MicroStructured(zero=0.7, unify=0.15), 2, tied=False),
        ),
    ],
    ids=lambda spec: spec["name"] if isinstance(spec, dict) else "",
)
def test_methods_that_train(spec: Any, method: Any) -> None:
    assert parse_recipe(OWN | {"method": spec, "training": {"epochs": 9}}).method == method


def test_all_places_have_a_name() -> None:
    for place in Place:
        method = sc.MicroStructured(skip=(place,))
        recipe = parse_recipe(OWN | {"method": method_data(method)})
        assert recipe.method == method
    assert PlaceName.__annotations__["place"].count("-") + 1 == len(Place)


def method_data(method: sc.MicroStructured) -> Any:
    data = write_recipe(parse_recipe(OWN | {"method": "micro-structured"}))["method"]
    (place,) = method.skip
    assert isinstance(place, Place)
    return data | {"skip": [{"place": place.name.lower().replace("_", "-")}]}


def test_a_file_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("model: zoo:resnet20-cifar10\ndata: cifar10\nbudget: {macs: 0.5}\n")
    recipe = load_recipe(path, ["budget.macs=null", "budget.params=0.25", "data.seed=7"])
    assert recipe.budget == sc.Budget(params=0.25)
    assert recipe.data.seed == 7
    assert load_recipe(path).budget == sc.Budget(macs=0.5)
    with pytest.raises(RecipeError, match=r"not macs and params: --set budget\.macs=null takes one away"):
        load_recipe(path, ["budget.params=0.25"])


def test_a_value_of_a_later_method_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("model: x:y\ndata: x:y\nbudget: {macs: 0.5}\nthen: [{method: micro-structured}]\n")
    method = load_recipe(path, ["then.0.method.zero=0.9"]).then[0].method
    assert method == sc.MicroStructured(zero=0.9)
    for wrong in ("then.1.method.zero=0.9", "then.zero=1", "then.0=1"):
        with pytest.raises(RecipeError, match=r"then\.0\.KEY=VALUE"):
            load_recipe(path, [wrong])


def test_tensors_of_a_file_are_read(tmp_path: Path) -> None:
    save_file({"0.weight": torch.ones(16, 6)}, tmp_path / "initial.safetensors")
    training = {"rewind": str(tmp_path / "initial.safetensors")}
    recipe = parse_recipe(OWN | SPARSE | {"training": training})
    assert recipe.training is not None
    assert recipe.training.rewind is not None
    assert recipe.training.rewind["0.weight"].shape == (16, 6)


def test_parsing_imports_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe is trusted like code: a name that is wrong is told before any work."""
    (tmp_path / "mine_for_recipe.py").write_text("def loss(outputs, labels):\n    return outputs.sum()\n")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = parse_recipe(OWN | SPARSE | {"training": {"loss": "mine_for_recipe:loss"}})
    assert recipe.training is not None
    assert recipe.training.loss.__module__ == "mine_for_recipe"  # type: ignore[attr-defined]
    with pytest.raises(
        RecipeError, match=r"training\.loss: 'mine_for_recipe' has no 'los'.*Did you mean 'loss'"
    ):
        parse_recipe(OWN | SPARSE | {"training": {"loss": "mine_for_recipe:los"}})
    assert parse_recipe(OWN | UNITS).model.name == "x:y"  # models and data are made when the run begins


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_are_valid(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_project", raising=False)  # another test's
    (tmp_path / "my_project.py").write_text("def build(*args):\n    return 1\n\nbatches = score = build\n")
    (tmp_path / "a.yaml").write_text(shipped()[name])
    recipe = load_recipe(tmp_path / "a.yaml")
    assert recipe.output is not None
    assert parse_recipe(write_recipe(recipe)) == recipe
    for step in recipe.steps:
        if isinstance(step.method, sc.ADMM):
            assert step.training is not None
            assert step.training.epochs > step.method.least_epochs


def test_what_shipped_recipes_say() -> None:
    sparse = parse_recipe_text("resnet20-cifar10-sparse")
    assert sparse.training.iterations == 10
    assert sparse.training.validation.bound == sc.Bound(drop=0.01)
    admm = parse_recipe_text("resnet20-cifar10-admm")
    assert admm.method == sc.ADMM.prune_first(sc.MicroStructured(zero=0.7, unify=0.15), epochs=3)
    assert admm.pack is not None
    assert parse_recipe_text("resnet20-cifar10-blocks").pack is not None


def parse_recipe_text(name: str) -> Any:
    from secateur.recipes.text import parse

    return parse_recipe(parse(shipped()[name]))
