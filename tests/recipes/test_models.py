"""From the name of a model in a recipe to the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from secateur import zoo
from secateur.ground.errors import RecipeError, SecateurError, UnknownNameError
from secateur.recipes.models import example_input, resolve_model
from secateur.recipes.recipe import ModelSpec

MODULE = """
import torch

VALUE = 3

def build(width=4):
    return torch.nn.Linear(width, 2)

def number():
    return 5
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mine_for_models.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "mine_for_models"


def test_zoo_architectures_take_arguments_and_weights(tmp_path: Path) -> None:
    source = zoo.resnet20(width=0.5)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = resolve_model(
        ModelSpec(name="zoo:resnet20", kwargs={"width": 0.5}, weights=tmp_path / "w.safetensors")
    )
    assert torch.equal(model.state_dict()["conv1.weight"], source.conv1.weight)
    assert not model.training


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(zoo.lenet300().state_dict(), path)
    with pytest.raises(RecipeError, match="do not fit"):
        resolve_model(ModelSpec(name="zoo:lenet5", weights=path))
    path.write_bytes(b"not safetensors")
    with pytest.raises(RecipeError, match="Cannot read the weights"):
        resolve_model(ModelSpec(name="zoo:lenet5", weights=path))
    with pytest.raises(RecipeError, match="Cannot read the weights"):
        resolve_model(ModelSpec(name="zoo:lenet5", weights=tmp_path / "none.safetensors"))


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("resnet18", {}, "has no source"),
        ("zoo:resnet200", {}, "Did you mean 'resnet20'"),
        ("zoo:resnet20", {"widht": 1}, "widht"),
        ("zoo:resnet20-cifar10", {"width": 1}, "takes no arguments"),
        ("no_such_module_anywhere:build", {}, "Cannot import the module"),
        ("mine_for_models:biuld", {}, "Did you mean 'build'"),
        ("mine_for_models:VALUE", {}, "cannot be called"),
        ("mine_for_models:number", {}, "returned a int"),
        ("mine_for_models:build", {"depth": 1}, "depth"),
    ],
)
def test_bad_models(mine: str, name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(SecateurError, match=message):
        resolve_model(ModelSpec(name=name, kwargs=kwargs))


def test_own_models(mine: str) -> None:
    model = resolve_model(ModelSpec(name=f"{mine}:build", kwargs={"width": 6}))
    assert isinstance(model, nn.Linear)
    assert model.in_features == 6


def test_torchvision_models() -> None:
    pytest.importorskip("torchvision")
    model = resolve_model(ModelSpec(name="torchvision:resnet18", kwargs={"num_classes": 3}))
    assert isinstance(model.fc, nn.Linear)
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet18'"):
        resolve_model(ModelSpec(name="torchvision:resnet_18"))
    with pytest.raises(RecipeError, match="cannot be made"):
        resolve_model(ModelSpec(name="torchvision:resnet18", kwargs={"colour": 1}))


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr("secateur.recipes.models.importlib.import_module", missing)
    with pytest.raises(RecipeError, match=r"pip install 'secateur\[timm\]'"):
        resolve_model(ModelSpec(name="timm:resnet18"))


def test_example_inputs() -> None:
    assert example_input("zoo:resnet20-fashion").shape[1:] == (1, 28, 28)
    assert example_input("zoo:lenet300").shape == (1, 1, 28, 28)
    assert example_input("timm:anything").shape == (1, 3, 224, 224)
    assert example_input("mine:build", (5, 6)).shape == (5, 6)
    assert torch.equal(example_input("zoo:resnet20"), example_input("zoo:resnet20"))
    with pytest.raises(RecipeError, match=r"not known: add --input"):
        example_input("mine:build")
