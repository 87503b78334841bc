"""What Python accepts a recipe accepts: every option of every method and part, by its annotation.

Values other than the default are made from the annotations of the fields, so that a new method or option is held to
it without a line here. `BASES` and `VALUES` say what annotations do not.
"""

from __future__ import annotations

import inspect
import json
import os
from collections import abc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import torch
from safetensors.torch import save_file
from schema_check import faults_of
from torch import Tensor, nn

import secateur as sc
from secateur.blocks import Block, Shares
from secateur.ground.documents import parse_yaml, to_yaml
from secateur.ground.errors import SecateurError
from secateur.ground.plain import Form, from_plain, schema, to_plain
from secateur.measure.metric import Metric
from secateur.methods.names import METHODS, PARTS, PlaceName, TypeName, names
from secateur.methods.protocol import Method
from secateur.recipes.recipe import GIVEN, DataSpec, ModelSpec, PackSpec, Recipe, Step
from secateur.training import Crops

OPTIONS = (
    sc.Training, sc.Validation, sc.Bound, sc.Teacher, Crops, sc.Checkpoints, sc.Limits, sc.Distill, sc.Budget,
    sc.Compensate, Metric, sc.Quantise, Block, Shares, ModelSpec, DataSpec, PackSpec, Step, Recipe,
)  # fmt: skip
KINDS: list[tuple[type, Any]] = [
    *((cls, Method) for cls in METHODS),
    *((cls, kind) for kind, classes in PARTS.items() for cls in classes),
    *((cls, cls) for cls in OPTIONS),
]


def measure(model: nn.Module) -> float:
    return 0.0


BASES: dict[type, Any] = {  # where there is no default for everything, or two options go together
    sc.Training: sc.Training(GIVEN[sc.Training, "loader"], validation=sc.Validation(measure, sc.Bound(0.5))),
    sc.Validation: sc.Validation(measure),
    sc.Teacher: sc.Teacher(GIVEN[sc.Teacher, "model"]),
    sc.Bound: sc.Bound(above=0.5),
    sc.Budget: sc.Budget(macs=0.5),
    sc.Checkpoints: sc.Checkpoints(Path("a")),
    sc.Quantise: sc.Quantise(8),
    Block: Block(8, 1),
    sc.training.MultiStep: sc.training.MultiStep((2.0,)),
    ModelSpec: ModelSpec("x:y"),
    DataSpec: DataSpec("x:y"),
    PackSpec: PackSpec(Path("a")),
    Step: Step(sc.NNRelief(), training=sc.Training(GIVEN[sc.Training, "loader"])),
    Recipe: Recipe(ModelSpec("x:y"), DataSpec("x:y"), budget=sc.Budget(macs=0.5), output=Path("a")),
}
VALUES: dict[tuple[type, str], Any] = {
    (Step, "budget"): sc.Budget(weights=0.5),
    (Step, "distill"): MISSING,  # has its check in Recipe
    (Recipe, "training"): MISSING,  # goes with another method
    (Recipe, "then"): (Step(sc.MicroStructured()),),
    (Recipe, "method"): sc.Random(),
    (Recipe, "calibration"): MISSING,  # goes with another method
}
ONE_OF = (sc.Budget, sc.Bound)  # exactly one field is given
UNSAID = {(sc.Training, "loader"), (sc.Teacher, "model")}  # the data of the recipe, and its model
FROM_FILE = {(sc.Training, "rewind")}  # is read from a file of its own


def own(cls: Any) -> list[Field[Any]]:
    return [f for f in fields(cls) if f.init and f.compare]


def base(cls: Any) -> Any:
    return BASES[cls] if cls in BASES else cls()


def others(kind: Any) -> Iterator[Any]:
    """Yield values of an annotation, plain ones first."""
    held, origin, args = names().get(kind), get_origin(kind) or kind, get_args(kind)
    if isinstance(held, Form):
        yield from {TypeName: (nn.Linear,), PlaceName: tuple(sc.blocks.Place)}.get(held.kind, ())
    elif isinstance(held, Mapping):
        yield from (base(entry) for entry in held.values() if isinstance(entry, type))
    elif origin is abc.Callable:
        yield from (measure, nn.functional.mse_loss)
    elif origin in (Union, UnionType):
        paths = any(get_origin(arg) is os.PathLike for arg in args)  # as which texts are read
        for arg in args:
            yield from (Path("b"),) if paths and arg is str else others(arg)
    elif origin is Literal:
        yield from args
    elif kind in (bool, int, float, str):
        yield from {bool: (True, False), int: (1, 2, 3, 4), float: (0.25, 0.75, 2.0), str: ("a",)}[kind]
    elif origin in (tuple, list):
        yield from ((entry,) for entry in others(args[0]))
    elif origin in (dict, Mapping, abc.Mapping):
        yield from ({"a.*": entry} for entry in others(args[1]))
    elif kind is Any:
        yield from (1, "a", [True, None])
    elif isinstance(kind, type) and issubclass(kind, Enum):
        yield from kind
    elif isinstance(kind, type) and issubclass(kind, Path):
        yield Path("a/b")
    elif is_dataclass(kind):
        yield from (value for f in own(kind) for value in changed(kind, f))
        yield base(kind)


def changed(cls: Any, field: Field[Any]) -> Iterator[Any]:
    """Yield instances with another value of a field, as far as the class takes them."""
    start = base(cls)
    hint = get_type_hints(cls)[field.name]
    given = (VALUES[cls, field.name],) if (cls, field.name) in VALUES else others(hint)
    for value in given:
        try:
            made = cls(**{field.name: value}) if cls in ONE_OF else replace(start, **{field.name: value})
        except (SecateurError, ValueError, TypeError):
            continue
        if made != start:
            yield made


CASES = [
    pytest.param(cls, kind, f.name, id=f"{cls.__name__}.{f.name}")
    for cls, kind in KINDS
    for f in own(cls)
    if (cls, f.name) not in UNSAID | FROM_FILE and VALUES.get((cls, f.name)) is not MISSING
]


@pytest.mark.parametrize(("cls", "kind", "name"), CASES)
def test_every_option_can_be_said(cls: Any, kind: Any, name: str) -> None:
    field = next(f for f in own(cls) if f.name == name)
    values = list(changed(cls, field))
    assert values, f"no value of {cls.__name__}.{name} other than the default is known here: see VALUES"
    offered = schema(kind, names=names(), given=GIVEN)
    for value in values[:8]:
        data = to_plain(value, kind=kind, names=names(), given=GIVEN)
        said = data if isinstance(data, dict) else to_plain(value, names=names(), given=GIVEN)
        if isinstance(said, dict):
            assert name in said
        text = to_yaml({"value": json.loads(json.dumps(data, allow_nan=False))})
        read: Any = parse_yaml(text, "a")
        assert from_plain(kind, read["value"], names=names(), given=GIVEN) == value
        assert list(faults_of(offered, read["value"])) == []


@pytest.mark.parametrize(("cls", "kind"), KINDS, ids=lambda x: getattr(x, "__name__", ""))
def test_every_option_is_in_the_schema(cls: Any, kind: Any) -> None:
    whole = schema(kind, names=names(), given=GIVEN)
    listed = [
        set(part["properties"])
        for key, part in whole["$defs"].items()
        if key.startswith(f"{cls.__module__}.{cls.__qualname__}") and "properties" in part
    ]
    assert listed
    for keys in listed:
        expected = {f.name for f in own(cls)} - {name for owner, name in UNSAID if owner is cls}
        assert keys - ({"name"} - expected) == expected


@pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.__name__)
def test_every_method_is_in_a_recipe(cls: Any) -> None:
    """By its name alone, with all its defaults, and with what it needs."""
    method = base(cls)
    needs = method.needs
    data: dict[str, Any] = {
        "model": "x:y",
        "data": "x:y",
        "method": to_plain(method, kind=Method, names=names()),
    }
    if needs.training:
        data["training"] = {"epochs": 100}
    if needs.budget:
        data["budget"] = {"macs": 0.5}
    for form in (
        data["method"],
        data["method"] if isinstance(data["method"], str) else data["method"]["name"],
    ):
        recipe = from_plain(Recipe, data | {"method": form}, names=names(), given=GIVEN)
        assert recipe.method == method
        assert ":" not in (form if isinstance(form, str) else form["name"])


def test_all_public_methods_are_named() -> None:
    """Classes that `prune` takes as a method, and that users find in the public table."""
    public = [getattr(sc, name) for name in sc.__all__]
    found = [c for c in public if inspect.isclass(c) and hasattr(c, "draft") and hasattr(c, "needs")]
    assert len(found) > 10
    assert set(found) <= set(METHODS)
    assert set(METHODS) <= {getattr(sc.methods, name) for name in sc.methods.__all__}


def test_all_parts_are_named() -> None:
    """Public classes that fit where a part is asked for: by the annotations of methods and options."""
    rooms = (sc.methods, sc.blocks, sc.selection, sc.recovery, sc.training)
    for kind, classes in PARTS.items():
        if not getattr(kind, "_is_protocol", False):
            continue
        parameters = [*inspect.signature(kind.__call__).parameters]
        alike = {
            found
            for room in rooms
            for name in room.__all__
            if inspect.isclass(found := getattr(room, name))
            and is_dataclass(found)
            and "__call__" in vars(found)
            and [*inspect.signature(found.__call__).parameters] == parameters
            and all(hasattr(found, member) for member in vars(kind) if not member.startswith("_"))
        }
        assert alike == set(classes), kind


def test_the_arguments_of_prune_are_keys() -> None:
    arguments = {*inspect.signature(sc.prune).parameters}
    keys = {f.name for f in (*fields(Recipe), *fields(Step))}
    assert arguments - keys == {"example_inputs", "dense", "timer", "progress"}
    assert {f.name for f in fields(Step)} < {f.name for f in fields(Recipe)}


def test_tensors_stand_in_a_file(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    for cls, name in FROM_FILE:
        found = from_plain(cls, {name: str(tmp_path / "a.safetensors")}, names=names(), given=GIVEN)
        tensors: Mapping[str, Tensor] = getattr(found, name)
        assert torch.equal(tensors["a"], torch.ones(2))


def test_what_this_test_knows_is_there() -> None:
    """A table of exceptions may not outlive what it is about."""
    for cls, name in {*VALUES, *UNSAID, *FROM_FILE}:
        assert name in {f.name for f in fields(cls)}
    made: Callable[[type], Any] = base
    assert all(isinstance(made(cls), cls) for cls in BASES)
