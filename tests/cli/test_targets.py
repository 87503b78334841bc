"""The dense model of an artefact: of its recipe where a library makes it, else of nobody but the user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from artefacts import resign
from command_line import RECIPE, run, run_json
from typer import BadParameter

import secateur as sc
from secateur.cli.targets import dense_of
from secateur.ground.documents import parse_yaml, to_yaml

ZOO = """
model: {name: zoo:lenet300}
data: {name: mine_for_cli:images}
example: [3, 1, 28, 28]
budget: {macs: 0.5}
method: magnitude
output: zoo
threads: 1
"""
TIMES = ("--rounds", "2", "--seconds", "0")


@pytest.fixture
def zoo(here: Path) -> Path:
    """An artefact of a network of the zoo."""
    with (here / "mine_for_cli.py").open("a") as file:
        file.write("\ndef images():\n    return [torch.rand(16, 1, 28, 28)]\n")
    (here / "zoo.yaml").write_text(ZOO)
    assert run("prune", "zoo.yaml", "--quiet") == 0
    return here / "zoo"


def test_measure_and_export_take_the_model_from_the_recipe(
    zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    found = run_json(capsys, "measure", "zoo", *TIMES)
    assert found["latency"]["batch"] == 3
    assert found["after"]["macs"] < found["before"]["macs"]
    assert run("pack", "zoo") == 0
    capsys.readouterr()
    assert run("measure", "zoo.sec", "--input", "2,1,28,28", *TIMES) == 0
    assert "The dense model is zoo:lenet300, as the recipe of zoo.sec says." in capsys.readouterr().err
    for source in ("zoo", "zoo.sec"):
        assert run("export", source, "--format", "exported", "-o", f"{source}.pt2") == 0
        assert Path(f"{source}.pt2").is_file()
    assert "The input is 3,1,28,28, as the recipe of zoo says." in capsys.readouterr().err


def test_code_of_the_users_is_run_only_if_she_names_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "half.yaml").write_text(RECIPE + "example: [2, 6]\n")
    assert run("prune", "half.yaml", "--quiet") == 0
    capsys.readouterr()
    for command in (("measure", "half"), ("export", "half", "-o", "half.onnx")):
        assert run(*command) == 2
        said = "".join(capsys.readouterr().err.replace("│", " ").split())
        assert "artefactsarenottrustedtoruncode" in said
        assert "--modelmine_for_cli:build" in said
    assert run("measure", "half", "--model", "mine_for_cli:build", *TIMES) == 0
    assert "The input is 2,6" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "which its recipe does not name: add --model NAME"),
        ({"model": 3}, "add --model NAME"),
        ({"model": ["zoo:lenet300"]}, "add --model NAME"),
        ({"model": {"kwargs": {}}}, "add --model NAME"),
        ({"model": "os:system"}, "not trusted to run code: .* --model os:system"),
        ({"model": {"name": "os:system", "kwargs": {"command": "ls"}}}, "not trusted to run code"),
        (
            {"model": {"name": "timm:resnet18", "kwargs": {"checkpoint_path": "x.pth"}}},
            "checkpoint_path='x.pth'",
        ),
        (
            {"model": {"name": "timm:resnet18", "kwargs": {"pretrained_cfg": {"file": "x"}}}},
            "pretrained_cfg=",
        ),
        ({"model": {"name": "torchvision:resnet18", "kwargs": {"weights": "http://x/y"}}}, "weights='http"),
        ({"model": {"name": "torchvision:resnet18", "kwargs": {"num_classes": "1"}}}, "num_classes='1'"),
        ({"model": {"name": "zoo:lenet300", "weights": "/etc/passwd"}}, "has weights of its own"),
    ],
)
def test_what_an_artefact_may_not_say(zoo: Path, change: dict[str, Any], message: str) -> None:
    recipe: Any = parse_yaml((zoo / "recipe.yaml").read_text(), "recipe.yaml")
    (zoo / "recipe.yaml").write_text(to_yaml(recipe | change))
    resign(zoo)
    with pytest.raises(BadParameter, match=message):
        dense_of(zoo, None, None)
    dense_of(zoo, "zoo:lenet300", None)


def test_hostile_names_in_a_recipe_are_not_obeyed(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe: Any = parse_yaml((zoo / "recipe.yaml").read_text(), "recipe.yaml")
    for model in ("os:\x1b[2J", {"name": "zoo:lenet300", "kwargs": {"\x1b[2J": 1}}, "zoo:\x1b[2J"):
        (zoo / "recipe.yaml").write_text(to_yaml(recipe | {"model": model}))
        resign(zoo)
        capsys.readouterr()
        assert run("measure", "zoo", *TIMES) == (1 if model == "zoo:\x1b[2J" else 2)
        error = capsys.readouterr().err
        assert "\\x1b[2J" in error
        assert "\x1b" not in error


@pytest.mark.parametrize("example", [None, [], [0], [-1, 3], ["1"], [True], [2**20, 2**20], 3, {"a": 1}])
def test_an_example_that_is_no_shape_is_passed_over(zoo: Path, example: Any) -> None:
    recipe: Any = parse_yaml((zoo / "recipe.yaml").read_text(), "recipe.yaml")
    (zoo / "recipe.yaml").write_text(to_yaml(recipe | {"example": example}))
    resign(zoo)
    assert dense_of(zoo, None, None)[1].shape == (1, 1, 28, 28)


def test_harmless_arguments_are_taken(zoo: Path) -> None:
    recipe: Any = parse_yaml((zoo / "recipe.yaml").read_text(), "recipe.yaml")
    model = {"name": "zoo:resnet20", "kwargs": {"width": 0.5, "num_classes": 7}}
    (zoo / "recipe.yaml").write_text(to_yaml(recipe | {"model": model, "example": None}))
    resign(zoo)
    dense, example = dense_of(zoo, None, None)
    assert dense(example).shape == (1, 7)
    assert sc.__version__
