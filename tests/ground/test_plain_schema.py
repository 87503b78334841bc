"""The schema for editors: it takes what can be read, and refuses keys that are not known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from plain_family import NAMES, REAL, VALUES, Box, Dot, Everything, Ring, Shape
from schema_check import at, faults_of
from torch import nn

from secateur.ground.plain import from_plain, schema, to_plain
from secateur.methods.protocol import Method


def test_the_schema_says_what_an_editor_needs() -> None:
    found = schema(Everything, names=NAMES)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    whole = at(found, found)
    assert whole["description"] == "Each kind of annotation once."
    assert whole["additionalProperties"] is False
    assert "anything" not in whole["required"]
    assert "flag" in whole["required"]
    assert whole["properties"]["colour"] == {"enum": ["dark red", "blue"]}
    assert whole["properties"]["corner"] == {"enum": ["top-left", "bottom"]}
    shape = at(found, whole["properties"]["shape"])
    assert shape["description"] == "What can be drawn."
    assert shape["oneOf"][0] == {"enum": ["dot", "box", "flat"]}
    box = at(found, shape["oneOf"][2])
    assert box["properties"]["name"] == {"const": "box"}
    assert box["properties"]["width"] == {"type": "number", "default": 1.0}
    assert box["description"] == "Two sides, both above 0."
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_the_schema_refuses_unknown_keys(value: Any) -> None:
    offered, data = schema(Method, names=REAL), to_plain(value, kind=Method, names=REAL)
    assert list(faults_of(offered, data | {"unknown": 1})) != []
    for key in data:
        assert list(faults_of(offered, data | {key: object()})) != []
    defaults = at(
        offered, next(s for s in at(offered, offered)["oneOf"] if named(offered, s) == data["name"])
    )
    said = {k: s["default"] for k, s in defaults["properties"].items() if "default" in s}
    expected = to_plain(type(value)(), kind=Method, names=REAL)
    assert {"name": data["name"], **said} == expected


def named(whole: Mapping[str, Any], part: Mapping[str, Any]) -> Any:
    return at(whole, part).get("properties", {}).get("name", {}).get("const")


def test_the_check_of_schemas_refuses() -> None:
    """Each keyword of the little check above can fail."""
    ring = schema(Ring)
    assert list(faults_of(ring, {"radius": 1})) == []
    for wrong in ({"radius": 1.5}, {"radius": True}, {}, {"radius": 1, "more": 2}, [], None):
        assert list(faults_of(ring, wrong)) != []
    assert list(faults_of(schema(tuple[int, str]), [1])) != []
    assert list(faults_of(schema(Literal["a"]), "b")) != []
    assert list(faults_of(schema(Mapping[str, int]), {"a": "b"})) != []
    assert list(faults_of(schema(Shape, names=NAMES), "nothing")) != []
    assert list(faults_of(schema(nn.Module), "nothing")) != []
    assert list(faults_of(schema(Shape, names=NAMES), {"name": "flat", "width": 1})) == []


def test_what_holds_itself_has_a_schema_too() -> None:
    found = schema(Shape, names=NAMES)
    nested = {"name": "box", "inside": {"name": "box", "inside": "dot"}}
    assert list(faults_of(found, nested)) == []
    assert list(faults_of(found, {"name": "box", "inside": {"name": "box", "inside": "dt"}})) != []
    assert from_plain(Shape, nested, names=NAMES) == Box(inside=Box(inside=Dot()))
