"""Shipped recipes are listed and printed; the schema is that of recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run, run_json
from schema_check import faults_of

from secateur.ground.documents import parse_yaml
from secateur.recipes import about, shipped


def test_shipped_recipes_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    found = run_json(capsys, "recipes")["recipes"]
    assert [entry["name"] for entry in found] == list(shipped())
    assert run("recipes") == 0
    text = capsys.readouterr().out
    for entry in found:
        assert entry["about"]
        assert entry["about"][-1] == "."
        assert entry["name"] in text
        assert entry["about"] in text


def test_a_shipped_recipe_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("recipes", "demo") == 0
    assert capsys.readouterr().out == shipped()["demo"]
    (entry,) = run_json(capsys, "recipes", "demo.yaml")["recipes"]
    assert entry["text"] == shipped()["demo"]


def test_a_recipe_without_a_comment_says_nothing() -> None:
    assert about("model: x:y\n# later\n") == ""
    assert about("\n#  First. \n# Second.") == "First."


def test_the_schema_is_that_of_recipes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schema") == 0
    offered = json.loads(capsys.readouterr().out)
    assert offered == run_json(capsys, "schema")
    assert offered["$schema"].startswith("https://json-schema.org")
    assert run("schema", "-o", "recipe.schema.json") == 0
    assert json.loads((here / "recipe.schema.json").read_text()) == offered
    assert run_json(capsys, "schema", "-o", "recipe.schema.json") == {"output": "recipe.schema.json"}
    for name, text in shipped().items():
        assert list(faults_of(offered, parse_yaml(text, name))) == [], name
    for wrong in ("budgt: 1", "method: snpp", "method: {name: snp, ordr: zca}", "training: {epochs: x}"):
        data = parse_yaml(f"model: x:y\ndata: x:y\n{wrong}", "a")
        assert list(faults_of(offered, data)) != [], wrong
