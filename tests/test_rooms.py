"""The order of the house: no lower room imports an upper one, nothing stands beside the rooms that should not."""

from __future__ import annotations

import ast

import rooms

FILES = sorted(rooms.SOURCE.rglob("*.py"))


def test_the_order_of_the_house_holds() -> None:
    assert rooms.faults(rooms.arrows()) == []


def test_every_room_is_on_the_map_in_import_order() -> None:
    """CONTRIBUTING.md lists them for people."""
    text = (rooms.SOURCE.parents[1] / "CONTRIBUTING.md").read_text("utf-8")
    places = [text.find(f"| `{room}` |") for room in rooms.ORDER]
    assert -1 not in places, [room for room, place in zip(rooms.ORDER, places) if place < 0]
    assert places == sorted(places)


def test_an_upward_arrow_is_a_fault() -> None:
    found = rooms.faults({("ground", "graph"): ["ground/x.py:1"], ("graph", "ground"): ["graph/x.py:1"]})
    assert found == ["ground imports graph, which is not below it: ground/x.py:1"]


def test_one_idea_a_file() -> None:
    tests = rooms.SOURCE.parents[1] / "tests"
    for path in (*FILES, *tests.rglob("*.py")):
        assert len(path.read_text("utf-8").splitlines()) <= 400, path


def test_no_long_function() -> None:
    for path in FILES:
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                told = ast.get_docstring(node, clean=False) or ""
                assert (node.end_lineno or 0) - node.lineno - told.count("\n") < 80, (path, node.name)
