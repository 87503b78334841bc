"""Mistakes in plain data are named with their path, in one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from plain_family import NAMES, Box, Colour, Corner, Dot, Everything, Ring, Shape, Span
from torch import nn

import secateur as sc
from secateur.blocks import Block
from secateur.ground.errors import RecipeError, UnknownNameError
from secateur.ground.importing import import_callable
from secateur.ground.plain import from_plain, to_plain

MISTAKES: list[tuple[Any, Any, str]] = [
    (
        sc.Budget,
        {"macz": 0.5},
        r"unknown key 'budget\.macz'; known: macs, params, .*\. Did you mean 'macs'\?",
    ),
    (sc.Budget, 0.5, r"budget: expected a mapping, not 0\.5\."),
    (sc.Budget, {"macs": 0}, r"budget\.macs: Budget macs=0 is out of range"),
    (sc.Budget, {"macs": True}, r"budget\.macs: expected a valid number, not True"),
    (sc.Budget, {"macs": math.nan}, r"budget\.macs: expected a finite number, not nan"),
    (sc.Budget, {"macs": math.inf}, r"budget\.macs: expected a finite number"),
    (sc.Budget, {"macs": 10**400}, r"budget\.macs: expected a finite number"),
    (
        sc.Budget,
        {"macs": "1e-3"},
        r"budget\.macs: expected a valid number, not '1e-3': numbers have no quotes",
    ),
    (
        sc.Budget,
        {"macs": 0.5, "params": 0.5},
        r"budget: A budget names exactly one .* macs and params together",
    ),
    (sc.Budget, {}, "budget: A budget names exactly one .* none was given"),
    (sc.Budget, {1: 2}, "unknown key 'budget.1'"),
    (
        Shape,
        "bix",
        r"budget: no shape is called 'bix'; known: dot, box, flat, module:Class\. Did you mean 'box'\?",
    ),
    (Shape, {"width": 1}, r"the key 'budget\.name' is missing; known: dot, box"),
    (Shape, {"name": 3}, r"the key 'budget\.name' is missing"),
    (Shape, 3, "budget: expected a name or a mapping, not 3"),
    (Shape, {"name": "box", "widht": 1}, r"unknown key 'budget\.widht'; .* Did you mean 'width'\?"),
    (
        Shape,
        {"name": "flat", "height": -1.0},
        r"budget\.height: width=9\.0 and height=-1\.0 must be above 0\.",
    ),
    (Shape, "math:sqrt", "budget: math:sqrt is no shape: it has no 'area'"),
    (Shape, {"name": "math:sqrt", "a": 1}, "has to be a dataclass"),
    (Shape, "torch.nn:Linear", "Linear has to be a dataclass without a field 'name'"),
    (Shape, "maths:sqrt", "budget: Cannot import the module 'maths'"),
    (Shape, "math:sqr", "budget: 'math' has no 'sqr'.*Did you mean 'sqrt'"),
    (Callable, "sqrt", r"budget: expected a function, as module:name or .*, not 'sqrt'"),
    (Callable, {"cal": "math:sqrt"}, r"budget: expected a function"),
    (Callable, {"call": "math:sqr"}, "Did you mean 'sqrt'"),
    (tuple[str, ...], "fc", r"budget: expected a list, not 'fc': write \[fc\] for a lone entry"),
    (tuple[str, ...], {"a": 1}, r"budget: expected a list, not dict\."),
    (tuple[int, ...], [1, True, "x"], r"budget\.1: expected a whole number.* Also: budget\.2: expected"),
    (tuple[int, str], [1], "budget: expected a list of 2, not of 1 entries"),
    (tuple[()], [1], "budget: expected a list of 0, not of 1 entries"),
    (
        tuple[str | type[nn.Module], ...],
        [{"typ": "x"}],
        r"unknown key 'budget\.0\.typ'; .* Did you mean 'type'\?",
    ),
    (tuple[str | type[nn.Module], ...], [{"type": "x"}], r"budget\.0: x is no class of layers\."),
    (tuple[str | type[nn.Module], ...], [3], r"budget\.0: expected text or a mapping, not 3"),
    (Mapping[str, int], {"a.*": 1.5}, r"budget\.a\.\*: expected a whole number, not 1\.5"),
    (Mapping[str, int], {1: 1}, "budget: expected text, not 1"),
    (Mapping[int, int], {1: 1}, "no file can say a collections.abc.Mapping"),
    (Literal[1, 2], 3, r"budget: expected 1 or 2, not 3\."),
    (Literal[1, 2], True, "expected 1 or 2, not True"),
    (Literal["on", "off"], "of", r"expected 'on' or 'off', not 'of'\. Did you mean 'off'\?"),
    (Colour, "dark-red", r"expected 'dark red' or 'blue', not 'dark-red'\. Did you mean 'dark red'\?"),
    (Corner | None, "TOP_LEFT", "expected 'top-left' or 'bottom'"),
    (bool, 1, "budget: expected true or false, not 1"),
    (int, 1.0, "budget: expected a whole number, not 1.0"),
    (str, 1, r"budget: expected text, not 1\."),
    (float, None, "budget: expected a valid number, not None"),
    (Path, 3, "budget: expected a path, not 3"),
    (int | None, "3", "budget: expected a whole number, not '3'"),
    (
        int | bool | None,
        "none",
        r"budget: expected a whole number or true or false, not 'none'\. Write null for none\.",
    ),
    (Block, "8by1", r"budget: '8by1' is no block: write rows x columns"),
    (Block, "0x1", r"budget: Block rows=0"),
    (Span, "3", r"budget: '3' is no span: write FIRST-LAST\."),
    (Span, {"first": 1}, r"the key 'budget\.last' is missing\."),
    (Span, {}, r"the key 'budget\.first' is missing\. Also: the key 'budget\.last' is missing\."),
    (
        Ring | Box,
        {"width": 1.0, "hight": 2},
        r"unknown key 'budget\.hight'; known: width, height, inside\. Did",
    ),
    (Box, {"inside": {"name": "box", "width": "a"}}, r"budget\.inside\.width: expected a valid number"),
    (Everything, {"hidden": 1}, r"unknown key 'budget\.hidden'"),
    (Everything, {"secret": 1}, r"unknown key 'budget\.secret'"),
    (Everything, {"derived": 1}, r"unknown key 'budget\.derived'.* And \d+ more\."),
    (nn.Module, "x:y", "budget: no file can say a Module"),
]


@pytest.mark.parametrize(("kind", "data", "message"), MISTAKES, ids=lambda x: str(x)[:40])
def test_mistakes_are_named_with_their_path(kind: Any, data: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        from_plain(kind, data, names=NAMES, at="budget")
    assert str(caught.value).startswith("Recipe: ")
    assert "\n" not in str(caught.value)


def test_the_path_may_be_empty() -> None:
    with pytest.raises(RecipeError, match=r"^Recipe: unknown key 'macz'; known: macs"):
        from_plain(sc.Budget, {"macz": 1})
    with pytest.raises(RecipeError, match=r"^Recipe: expected a mapping, not 3\.$"):
        from_plain(sc.Budget, 3)
    with pytest.raises(RecipeError, match=r"^Recipe: no shape is called 'x'"):
        from_plain(Shape, "x", names=NAMES)


def test_values_of_another_kind_are_not_written() -> None:
    for kind, value in [
        (Box, Dot()),
        (tuple[int, ...], 3),
        (int, "3"),
        (Literal["a"], "b"),
        (Path, 3),
        (Shape, Dot),
        (Shape, math.sqrt),
        (Mapping[str, int], [1]),
    ]:
        with pytest.raises(RecipeError):
            to_plain(value, kind=kind, names=NAMES)


def test_annotations_that_are_not_there_are_said() -> None:
    @dataclass(frozen=True)
    class Late:
        value: Missing  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(RecipeError, match=r"annotation 'Missing' is not there.*TYPE_CHECKING"):
        from_plain(Late, {"value": 1})


def test_a_name_of_its_own_does_not_go_with_a_name() -> None:
    @dataclass(frozen=True)
    class Person:
        name: str

        def area(self) -> float:
            return 0.0

    assert from_plain(Person, to_plain(Person("x"))) == Person("x")
    with pytest.raises(RecipeError, match="without a field 'name'"):
        to_plain(Person("x"), kind=Shape)


@pytest.mark.parametrize(
    "name", ["nothing", ":x", "x:", "no_such_module_anywhere:x", "math:nothing", "math:pi"]
)
def test_what_cannot_be_imported(name: str) -> None:
    with pytest.raises(UnknownNameError):
        import_callable(name)
