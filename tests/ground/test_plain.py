"""Plain data: what is written is read again, and what Python takes a file can say."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from plain_family import (
    EVERYTHING,
    JSONS,
    NAMES,
    REAL,
    SHAPES,
    VALUES,
    Box,
    Colour,
    Corner,
    Dot,
    Everything,
    Ring,
    Shape,
    Span,
    double,
)
from schema_check import faults_of
from torch import Tensor, nn

import secateur as sc
from secateur import training
from secateur.blocks import Block, Place, Reshape
from secateur.ground.errors import RecipeError
from secateur.ground.plain import Form, Names, from_plain, schema, to_plain
from secateur.methods import orders
from secateur.methods.protocol import Method

FAMILY = double.__module__


@given(EVERYTHING)
def test_what_is_written_is_read_again(value: Everything) -> None:
    data = to_plain(value, names=NAMES)
    assert from_plain(Everything, data, names=NAMES) == value
    assert from_plain(Everything, json.loads(json.dumps(data)), names=NAMES) == value
    assert not {"hidden", "secret", "derived", "constant"} & set(data)
    assert list(faults_of(schema(Everything, names=NAMES), data)) == []


@given(SHAPES)
def test_named_things_are_read_again(value: Any) -> None:
    assert from_plain(Shape, to_plain(value, kind=Shape, names=NAMES), names=NAMES) == value
    unnamed = to_plain(value, kind=Shape)
    assert ":" in unnamed["name"]
    assert from_plain(Shape, unnamed) == value


@given(st.sampled_from(SAYABLE := [bool, int, float, str, Colour, Path, Span, Box, Shape]), JSONS)
def test_any_data_are_read_or_refused_in_one_line(kind: Any, data: Any) -> None:
    try:
        value = from_plain(kind, data, names=NAMES)
    except RecipeError as error:
        message = str(error)
    else:
        again = to_plain(value, kind=kind, names=NAMES)
        assert from_plain(kind, again, names=NAMES) == value
        assert list(faults_of(schema(kind, names=NAMES), data)) == []
        return
    assert message.startswith("Recipe: ")
    assert "\n" not in message


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_methods_are_read_again(value: Any) -> None:
    data = to_plain(value, kind=Method, names=REAL)
    assert data["name"] in REAL[Method]
    assert from_plain(Method, yaml.safe_load(yaml.safe_dump(data)), names=REAL) == value
    assert list(faults_of(schema(Method, names=REAL), data)) == []
    alone = to_plain(value, names=REAL)
    assert "name" not in alone
    assert from_plain(type(value), alone, names=REAL) == value


@pytest.mark.parametrize(
    "budget",
    [
        {"macs": 0.5},
        {"params": 100_000},
        {"latency_ms": 0.3},
        {"variance": 0.95},
        {"bytes": 0.5},
        {"weights": 0.1},
    ],
)
def test_budgets_are_read_again(budget: dict[str, float]) -> None:
    value = from_plain(sc.Budget, budget)
    assert value == sc.Budget(**budget)
    data = to_plain(value)
    assert {key: n for key, n in data.items() if n is not None} == budget
    assert from_plain(sc.Budget, data) == value


def test_training_is_read_again_with_what_the_program_gives() -> None:
    loader, net, measure = [1, 2], nn.Linear(2, 2), nn.functional.mse_loss
    value = sc.Training(
        loader,
        loss=nn.functional.cross_entropy,
        epochs=3,
        validation=sc.Validation(measure, sc.Bound(drop=0.1), 4),
        schedule=training.MultiStep((2, 3.5)),
        teacher=sc.Teacher(net, weight=0.5),
        checkpoints=sc.Checkpoints(Path("out.run"), True, 9),
    )
    given = {
        (training.Training, "loader"): loader,
        (training.Training, "optimizer"): value.optimizer,
        (training.Validation, "measure"): measure,
        (training.Teacher, "model"): net,
    }
    data = to_plain(value, names=REAL, given=given)
    assert "loader" not in data
    assert "model" not in data["teacher"]
    assert from_plain(sc.Training, data, names=REAL, given=given) == value
    offered = schema(sc.Training, names=REAL, given=given)
    assert list(faults_of(offered, data)) == []
    assert list(faults_of(offered, data | {"epochz": 1})) != []
    assert list(faults_of(schema(sc.Training, names=REAL), {})) == []  # no file can say a loader
    own = from_plain(sc.Training, {"validation": {"measure": "math:sqrt"}}, given=given)
    assert own.validation.measure is math.sqrt
    with pytest.raises(RecipeError, match=r"training\.epochs: epochs=0, .* must be at least"):
        from_plain(sc.Training, {"epochs": 0}, given=given, at="training")
    with pytest.raises(RecipeError, match=r"the key 'loader' is missing"):
        from_plain(sc.Training, {})
    with pytest.raises(RecipeError, match=r"loader: no file can say a .*Iterable"):
        from_plain(sc.Training, {"loader": [1]})
    with pytest.raises(RecipeError, match=r"loader: no file can say"):
        to_plain(value, names=REAL)


def test_names_presets_and_imports() -> None:
    read = functools.partial(from_plain, Shape, names=NAMES)
    assert read("dot") == read({"name": "dot"}) == Dot()
    assert read("flat") == Box(9.0, 0.5)
    assert read({"name": "flat", "width": 2.0, "inside": "dot"}) == Box(2.0, 0.5, Dot())
    assert read({"name": f"{FAMILY}:Ring", "radius": 3}) == Ring(3)
    assert from_plain(Shape, "anywhere:Round", imported=lambda name: Dot) == Dot()
    assert to_plain(Box(inside=Dot()), kind=Shape, names=NAMES) == {
        "name": "box",
        "width": 1.0,
        "height": 1.0,
        "inside": "dot",
    }
    assert to_plain(Box.flat(), kind=Shape, names=NAMES)["name"] == "box"


def test_base_classes_are_names_too() -> None:
    @dataclass(frozen=True)
    class Base:
        """A base."""

    @dataclass(frozen=True)
    class Child(Base):
        size: int = 1

    names: Names = {Base: {"child": Child}}
    assert from_plain(Base, {"name": "child", "size": 2}, names=names) == Child(2)
    assert to_plain(Child(2), kind=Base | None, names=names) == {"name": "child", "size": 2}
    with pytest.raises(RecipeError, match="is no base"):
        from_plain(Base, f"{FAMILY}:Dot", names=names)


def test_functions_and_their_keywords() -> None:
    read = functools.partial(from_plain, Callable[[int], int])
    here = f"{FAMILY}:double"
    assert read(here) is double
    tripled = read({"call": here, "times": 3})
    assert tripled(2) == 6
    assert to_plain(tripled, kind=Callable[[int], int]) == {"call": here, "times": 3}
    assert to_plain(torch.optim.Adam, kind=Callable) == "torch.optim.adam:Adam"
    assert read({"name": f"{FAMILY}:Box", "width": 2.0}) == Box(2.0)  # an instance that is called
    named = {Callable[[int], int]: {"box": Box}}
    assert from_plain(Callable[[int], int], "box", names=named) == Box()
    assert to_plain(Box(), kind=Callable[[int], int], names=named)["name"] == "box"
    for unsaid in (functools.partial(double, 3), Box().area, functools.partial(Box().area)):
        with pytest.raises(RecipeError, match="no file can say"):
            to_plain(unsaid, kind=Callable)
    with pytest.raises(
        RecipeError, match=r"unknown key 'f\.tims'; known: number, times\. Did you mean 'times'\?"
    ):
        read({"call": here, "tims": 3}, at="f")
    written = to_plain(lambda: 1, kind=Callable)
    assert "<lambda>" in written
    with pytest.raises(RecipeError, match="cannot be imported: put it into a module of yours"):
        read(written)


def test_paths_and_texts() -> None:
    assert to_plain(sc.Checkpoints("runs")) == to_plain(sc.Checkpoints(Path("runs")))
    assert from_plain(sc.Checkpoints, {"folder": "runs"}) == sc.Checkpoints(Path("runs"))
    assert to_plain(Block(8, 1)) == "8x1"
    assert to_plain(Block(8, 1, reshape=Reshape.INPUTS)) == {
        "rows": 8,
        "columns": 1,
        "taps": 1,
        "reshape": "inputs",
    }
    assert from_plain(Block, {"rows": 2, "columns": 1}) == from_plain(Block, "2x1")
    with pytest.raises(RecipeError, match="would be read as the text 'head'"):
        to_plain(("conv*", Place.HEAD), kind=tuple[str | Place, ...])


def test_written_numbers_are_pythons_own() -> None:
    import numpy as np

    data = to_plain(Box(np.float64(2), 1))
    assert [type(n) for n in (data["width"], data["height"])] == [float, int]
    assert type(to_plain(Colour.BLUE, kind=str)) is str


def test_what_no_file_can_say_is_said_otherwise() -> None:
    @dataclass(frozen=True)
    class Run:
        shape: Shape
        loader: Iterable[Any]
        teacher: nn.Module | None = None

    value = Run(Box(), [1], nn.ReLU())
    data = to_plain(value, names=NAMES, otherwise=lambda x: f"a {type(x).__name__}")
    assert (data["loader"], data["teacher"]) == ("a list", "a ReLU")
    assert data["shape"]["name"] == "box"
    with pytest.raises(RecipeError, match="loader"):
        to_plain(value, names=NAMES)
    assert to_plain(torch.zeros(1), kind=Any, otherwise=lambda x: "x") == "x"
    for other in (object(), {1, 2}, b"x", math.nan, {1: 2}, nn.ReLU()):
        with pytest.raises(RecipeError):
            to_plain(other, kind=Any)


def test_all_that_is_any_is_written_by_what_it_is() -> None:
    value = {"a": (1, Path("x"), Colour.BLUE, Corner.TOP_LEFT), "b": [Box(), double, None]}
    assert to_plain(value, kind=Any, names=NAMES) == {
        "a": [1, "x", "blue", "top-left"],
        "b": [
            {"name": "box", "width": 1.0, "height": 1.0, "inside": None},
            f"{FAMILY}:double",
            None,
        ],
    }


def test_presets_are_changed_by_further_keys() -> None:
    found = from_plain(Method, {"name": "snp-paper", "order": "pivot"}, names=REAL)
    assert found == replace(sc.SNP.paper(), order=orders.Pivot())
    assert from_plain(Method, "snp-paper", names=REAL) == sc.SNP.paper()
    assert isinstance(found.recovery, sc.OnePass)


def test_tensors_may_have_a_form() -> None:
    def load(path: Path) -> dict[str, Tensor]:
        return {"weight": torch.zeros(len(str(path)))}

    names: Names = {Mapping[str, Tensor]: Form(Path, load, lambda tensors: 1)}
    given: dict[tuple[type, str], Any] = {(sc.Training, "loader"): []}
    found = from_plain(sc.Training, {"rewind": "abc"}, names=names, given=given)
    assert found.rewind["weight"].shape == (3,)
    with pytest.raises(RecipeError, match="rewind: expected a path, not 1"):
        to_plain(found, names=names, given=given)
