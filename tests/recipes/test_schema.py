from pathlib import Path
from typing import Any

import pytest
from secateur.recipes.schema import MagnitudeSpec, Recipe, TypeName

from secateur.ground.errors import RecipeError
from secateur.recipes import load_recipe, parse_recipe, shipped

BASE: dict[str, Any] = {"model": "zoo:resnet20-cifar10", "data": "cifar10", "budget": {"macs": 0.5}}


def test_names_stand_for_mappings_and_defaults_are_filled_in() -> None:
    recipe = parse_recipe(BASE)
    assert recipe.model.name == "zoo:resnet20-cifar10"
    assert recipe.data.calibration == 1000
    assert recipe.method.name == "snp"
    assert (recipe.round_to, recipe.floor, recipe.seed) == (1, 1, 0)


def test_everything_can_be_said() -> None:
    recipe = parse_recipe(
        BASE
        | {
            "example": [1, 3, 32, 32],
            "method": {"name": "magnitude", "p": 2, "recover": False},
            "exclude": ["fc", {"type": "Linear"}],
            "output": "out",
            "threads": 2,
        }
    )
    assert recipe.method == MagnitudeSpec(name="magnitude", p=2, recover=False)
    assert recipe.exclude == ("fc", TypeName(type="Linear"))
    assert recipe.output == Path("out")
    assert recipe.example == (1, 3, 32, 32)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgt": 1}, r"unknown key 'budgt'.*Did you mean 'budget'\?"),
        ({"budget": {"mcs": 0.5}}, r"unknown key 'budget\.mcs'.*Did you mean 'macs'\?"),
        (
            {"budget": {"macs": 0.5, "params": 0.5}},
            "exactly one of macs, params, variance, bytes, latency, latency_ms, weights, not macs and params",
        ),
        ({"budget": {}}, "not none"),
        ({"budget": 0.5}, "budget: expected a mapping, not 0.5"),
        ({"budget": {"macs": 0}}, r"budget\.macs.*greater than 0"),
        ({"budget": {"macs": True}}, r"budget\.macs.*valid number"),
        ({"budget": {"macs": float("nan")}}, r"budget\.macs.*finite"),
        ({"budget": {"variance": 1.5}}, r"budget\.variance.*less than or equal to 1"),
        ({"budget": {"latency": 12}}, r"budget\.latency.*less than or equal to 1"),
        ({"budget": {"latency_sm": 1}}, r"Did you mean 'latency_ms'\?"),
        ({"method": "snpp"}, r"no method is called 'snpp'.*Did you mean 'snp'\?"),
        ({"method": {"p": 1}}, r"'method\.name' is missing"),
        ({"method": {"name": "magnitude", "recovr": True}}, r"'method\.recovr'.*Did you mean 'recover'\?"),
        ({"method": {"name": "magnitude", "p": 3}}, r"method\.p.*not 3"),
        ({"method": {"name": "snp", "p": 1}}, r"unknown key 'method\.p'"),
        ({"exclude": "fc"}, "exclude: expected a list"),
        ({"exclude": [{"typ": "Linear"}]}, r"unknown key 'exclude\.0\.typ'.*Did you mean 'type'\?"),
        ({"data": {"name": "cifar10", "calibration": 0}}, r"data\.calibration"),
        ({"example": [1, -3]}, r"example\.1"),
        ({"threads": 0}, "threads"),
        ({"model": {}}, r"'model\.name' is missing"),
    ],
)
def test_mistakes_are_named_with_their_path(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe(BASE | change)
    assert "\n" not in str(caught.value)


def test_missing_keys_are_all_named() -> None:
    with pytest.raises(RecipeError, match=r"'model' is missing.*'data' is missing"):
        parse_recipe({})
    with pytest.raises(RecipeError, match="'budget' is missing"):
        parse_recipe({"model": "zoo:resnet20-cifar10", "data": "cifar10"})


def test_a_file_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("model: zoo:resnet20-cifar10\ndata: cifar10\nbudget: {macs: 0.5}\n")
    recipe = load_recipe(path, ["budget.macs=null", "budget.params=0.25", "data.seed=7"])
    assert recipe.budget.macs is None
    assert recipe.budget.params == 0.25
    assert recipe.data.seed == 7
    assert load_recipe(path).budget.macs == 0.5


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_are_valid(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(shipped()[name])
    recipe = load_recipe(tmp_path / "a.yaml")
    assert recipe.output is not None
