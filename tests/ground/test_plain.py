"""Plain data: what is written is read again, what Python takes a file can say, mistakes are named with their path."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur as sc
from secateur import methods, training
from secateur.blocks import Block, Joint, Place, PruneFirst, Reshape
from secateur.blocks.assignment import Assignment
from secateur.ground.errors import RecipeError, UnknownNameError
from secateur.ground.importing import import_callable, name_of
from secateur.ground.plain import Form, Names, from_plain, schema, to_plain
from secateur.methods import nn_relief, orders
from secateur.methods.irrelevance import GammaSchedule
from secateur.methods.microstructure import Spread
from secateur.methods.ranking import Order
from secateur.recovery import Recovery
from secateur.selection import allocation
from secateur.training.crop import Global, LayerWise, Scope
from secateur.training.schedules import Schedule

# A family of classes with every kind of annotation.


class Colour(StrEnum):
    DARK_RED = "dark red"
    BLUE = "blue"


class Corner(Enum):
    TOP_LEFT = 1
    BOTTOM = (2, 3)


class Level(IntEnum):
    LOW = 1


class Shape(Protocol):
    """What can be drawn."""

    def area(self) -> float: ...


@dataclass(frozen=True)
class Dot:
    """No size."""

    def area(self) -> float:
        return 0.0


@dataclass(frozen=True)
class Box:
    """Two sides, both above 0."""

    width: float = 1.0
    height: float = 1.0
    inside: Shape | None = None

    def __post_init__(self) -> None:
        if min(self.width, self.height) <= 0:
            raise ValueError(f"width={self.width} and height={self.height} must be above 0.")

    @staticmethod
    def flat() -> Box:
        return Box(9.0, 0.5)

    def area(self) -> float:
        return self.width * self.height


@dataclass(frozen=True)
class Ring:
    """Not in the table of names."""

    radius: int

    def area(self) -> float:
        return math.pi * self.radius**2


@dataclass(frozen=True)
class Span:
    """Two numbers, written as a text where that says all."""

    first: int
    last: int
    open: bool = False

    @classmethod
    def parse(cls, text: str) -> Span:
        first, dash, last = text.partition("-")
        if not dash:
            raise ValueError(f"{text!r} is no span: write FIRST-LAST")
        return cls(int(first), int(last))

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True)
class TypeName:
    """A class of layers."""

    type: str


@dataclass(frozen=True)
class PlaceName:
    """A place."""

    place: Literal["first-convolution", "head"]


def layer_type(name: TypeName) -> type[nn.Module]:
    found: Any = import_callable(name.type) if ":" in name.type else getattr(nn, name.type, None)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise ValueError(f"{name.type} is no class of layers")
    return found


def type_name(layer: Any) -> TypeName:
    if not isinstance(layer, type):
        raise TypeError("it is no class")
    return TypeName(name_of(layer) or "")


def place_name(place: Any) -> PlaceName:
    if not isinstance(place, Place):
        raise TypeError("it is no place")
    return PlaceName("head" if place is Place.HEAD else "first-convolution")


NAMES: Names = {
    Shape: {"dot": Dot, "box": Box, "flat": Box.flat},
    type[nn.Module]: Form(TypeName, layer_type, type_name),
    Place: Form(PlaceName, lambda n: Place[n.place.upper().replace("-", "_")], place_name),
}


@dataclass(frozen=True)
class Everything:
    """Each kind of annotation once.

    More is said below the first line.
    """

    flag: bool
    count: int
    number: float
    text: str
    maybe: int | None
    literal: Literal["a", 1, True, None]
    colour: Colour
    corner: Corner
    level: Level
    path: Path
    anywhere: str | os.PathLike[str]
    many: tuple[float, ...]
    pair: tuple[int, str]
    empty: tuple[()]
    sequence: Sequence[bool]
    listed: list[int]
    table: Mapping[str, tuple[int, ...]]
    counts: dict[str, int]
    shape: Shape
    perhaps: Shape | None
    shapes: tuple[Shape, ...]
    box: Box
    span: Span
    layers: tuple[str | type[nn.Module], ...]
    mixed: bool | float | str | Corner | tuple[int, ...]
    records: Ring | Box
    function: Callable[..., Any]
    factory: Callable[[int], Any] | None
    raw: dict[str, Any]
    anything: Any = None
    hidden: int = field(default=7, compare=False)
    secret: int = field(default=8, metadata={"plain": False})
    derived: int = field(default=9, init=False)
    constant: ClassVar[int] = 3


def double(number: int, *, times: int = 2) -> int:
    return number * times


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(-(2**70), 2**70)
TEXTS = st.text(max_size=5)
PATHS = st.sampled_from([Path("a"), Path("a/b.txt"), Path("/x")])
SHAPES: st.SearchStrategy[Any] = st.deferred(
    lambda: st.one_of(
        st.just(Dot()),
        st.builds(Ring, WHOLE),
        st.builds(Box, st.floats(0.5, 9), st.floats(0.5, 9), st.none() | SHAPES),
    )
)
FUNCTIONS = st.sampled_from([double, math.sqrt, nn.functional.relu, Box.flat, nn.Linear, dict.fromkeys])
JSONS = st.recursive(
    st.none() | st.booleans() | WHOLE | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
EVERYTHING = st.builds(
    Everything,
    flag=st.booleans(),
    count=WHOLE,
    number=FLOATS | st.integers(-5, 5),
    text=TEXTS,
    maybe=st.none() | WHOLE,
    literal=st.sampled_from(["a", 1, True, None]),
    colour=st.sampled_from(Colour),
    corner=st.sampled_from(Corner),
    level=st.sampled_from(Level),
    path=PATHS,
    anywhere=PATHS,
    many=st.lists(FLOATS, max_size=3).map(tuple),
    pair=st.tuples(WHOLE, TEXTS),
    empty=st.just(()),
    sequence=st.lists(st.booleans(), max_size=3).map(tuple),
    listed=st.lists(WHOLE, max_size=3),
    table=st.dictionaries(TEXTS, st.lists(WHOLE, max_size=3).map(tuple), max_size=3),
    counts=st.dictionaries(TEXTS, WHOLE, max_size=3),
    shape=SHAPES,
    perhaps=st.none() | SHAPES,
    shapes=st.lists(SHAPES, max_size=3).map(tuple),
    box=st.builds(Box, st.floats(0.5, 9)),
    span=st.builds(Span, st.integers(0, 9), st.integers(0, 9), st.booleans()),
    layers=st.lists(TEXTS | st.sampled_from([nn.Linear, nn.Conv2d]), max_size=3).map(tuple),
    mixed=st.booleans() | FLOATS | TEXTS | st.lists(WHOLE, max_size=3).map(tuple),
    records=st.builds(Ring, WHOLE) | st.builds(Box, st.floats(0.5, 9)),
    function=FUNCTIONS,
    factory=st.none() | FUNCTIONS,
    raw=st.dictionaries(TEXTS, JSONS, max_size=3),
    anything=JSONS,
)


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


# Real ones, with a table as recipes have it.

METHODS = {
    "snp": sc.SNP,
    "snp-paper": sc.SNP.paper,
    "magnitude": sc.Magnitude,
    "random": sc.Random,
    "batch-norm-scale": sc.BatchNormScale,
    "taylor": sc.Taylor,
    "micro-structure": sc.MicroStructured,
    "irrelevance-decay": sc.IrrelevanceDecay,
    "weight-decay": sc.WeightDecay,
    "gradual-magnitude": sc.GradualMagnitude,
    "lobster": sc.Lobster,
    "nn-relief": sc.NNRelief,
    "admm": sc.ADMM,
    "prune-first": lambda: sc.ADMM.prune_first(sc.MicroStructured()),
}


class Method(Protocol):
    """What prunes."""

    @property
    def label(self) -> str: ...


REAL: Names = NAMES | {
    Method: METHODS,
    Order: {
        n.lower(): getattr(orders, n)
        for n in ("Output", "ZCA", "Conditional", "Pivot", "Variance", "Weights")
    },
    allocation.Allocation: {
        "threshold": allocation.Threshold,
        "uniform": allocation.Uniform,
        "standardised": allocation.Standardised,
        "loss-per-cost": allocation.LossPerCost,
    },
    Recovery: {"sequential": sc.Sequential, "one-pass": sc.OnePass},
    Assignment: {"joint": Joint, "prune-first": PruneFirst},
    Spread: {"each-layer": methods.EachLayer, "across-layers": sc.AcrossLayers},
    GammaSchedule: {"steady": methods.irrelevance.Steady, "fading": methods.irrelevance.Fading},
    Scope: {"global": Global, "layer-wise": LayerWise},
    Schedule: {
        "constant": sc.Constant,
        "cosine": sc.Cosine,
        "multi-step": sc.MultiStep,
        "one-cycle": sc.OneCycle,
    },
}
BLOCKS = sc.MicroStructured(
    Block(4, 2, taps=3),
    0.5,
    0.25,
    shares={"layer1.*": sc.Shares(0.2)},
    blocks={"fc": Block(4, 4, reshape=Reshape.INPUTS), "*.conv1": Block(8, 1)},
    skip=("stem", nn.Embedding, Place.HEAD, Place.FIRST_CONVOLUTION, "head"),
    assignment=PruneFirst(),
    spread=sc.AcrossLayers(0.9),
)
VALUES: list[Any] = [
    sc.SNP(),
    sc.SNP.paper(),
    *(sc.SNP(order=order()) for order in REAL[Order].values()),  # type: ignore[union-attr]
    *(sc.SNP(allocation=a()) for a in REAL[allocation.Allocation].values()),  # type: ignore[union-attr]
    sc.SNP(recovery=sc.OnePass(ridges=(1e-5, 0.1), centred=True)),
    sc.SNP(recovery=sc.Sequential(sweeps=3, memory=1 << 20)),
    sc.SNP(recovery=None),
    sc.Magnitude(p=2),
    sc.Random(seed=3, recovery=sc.OnePass()),
    sc.BatchNormScale(),
    sc.Taylor(),
    sc.Taylor(loss=nn.functional.cross_entropy),
    sc.MicroStructured(),
    BLOCKS,
    sc.IrrelevanceDecay(0.1, schedule=methods.irrelevance.Fading(5), only=("conv*", nn.Linear)),
    sc.WeightDecay(p=1),
    sc.GradualMagnitude(0.5, scope=LayerWise(), exclude=(nn.BatchNorm2d,)),
    sc.Lobster(tolerance=0.1),
    sc.NNRelief(pivot=nn_relief.PivotRule.NEXT_GOES, propagation=nn_relief.Propagation.PRUNED),
    sc.ADMM(),
    sc.ADMM(BLOCKS.__class__(zero=0.6, unify=0.2), 2, (0.1, 1.0), 2, tied=False),
    sc.ADMM.prune_first(sc.MicroStructured(zero=0.7, unify=0.15), epochs=6),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_methods_are_read_again(value: Any) -> None:
    data = to_plain(value, kind=Method, names=REAL)
    assert data["name"] in METHODS
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
        schedule=sc.MultiStep((2, 3.5)),
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


# What stands for what.


def test_names_presets_and_imports() -> None:
    read = functools.partial(from_plain, Shape, names=NAMES)
    assert read("dot") == read({"name": "dot"}) == Dot()
    assert read("flat") == Box(9.0, 0.5)
    assert read({"name": "flat", "width": 2.0, "inside": "dot"}) == Box(2.0, 0.5, Dot())
    assert read({"name": f"{__name__}:Ring", "radius": 3}) == Ring(3)
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
        from_plain(Base, f"{__name__}:Dot", names=names)


def test_functions_and_their_keywords() -> None:
    read = functools.partial(from_plain, Callable[[int], int])
    here = f"{__name__}:double"
    assert read(here) is double
    tripled = read({"call": here, "times": 3})
    assert tripled(2) == 6
    assert to_plain(tripled, kind=Callable[[int], int]) == {"call": here, "times": 3}
    assert to_plain(torch.optim.Adam, kind=Callable) == "torch.optim.adam:Adam"
    assert read({"name": f"{__name__}:Box", "width": 2.0}) == Box(2.0)  # an instance that is called
    named = {Callable[[int], int]: {"box": Box}}
    assert from_plain(Callable[[int], int], "box", names=named) == Box()
    assert to_plain(Box(), kind=Callable[[int], int], names=named)["name"] == "box"
    for unsaid in (functools.partial(double, 3), Box().area, functools.partial(Box().area)):
        with pytest.raises(RecipeError, match="no file can say"):
            to_plain(unsaid, kind=Callable)
    with pytest.raises(
        RecipeError, match=r"f: unknown key 'f\.tims'|unknown key 'f\.tims'.*Did you mean 'times'"
    ):
        read({"call": here, "tims": 3}, at="f")
    written = to_plain(lambda: 1, kind=Callable)
    assert "<lambda>" in written
    with pytest.raises(RecipeError, match="cannot be imported: name a function that a module defines"):
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
        "b": [{"name": "box", "width": 1.0, "height": 1.0, "inside": None}, f"{__name__}:double", None],
    }


# Mistakes.

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
    (Shape, {"name": "flat", "height": -1.0}, r"budget: width=9\.0 and height=-1\.0|budget\.height: width="),
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
    (Path, 3, "budget: expected text, not 3"),
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


# The schema for editors.


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


def at(whole: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in part:
        part = whole["$defs"][part["$ref"].removeprefix("#/$defs/")]
    return part


TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


def faults_of(whole: Mapping[str, Any], data: Any, part: Mapping[str, Any] | None = None) -> Iterable[str]:
    """Yield what a value breaks in a schema: as much of draft 2020-12 as `schema` uses, and no other keyword."""
    part = at(whole, whole if part is None else part)
    inner = functools.partial(faults_of, whole)
    of_objects = {"properties", "required", "additionalProperties"}
    known = {
        "type",
        "enum",
        "const",
        "pattern",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "anyOf",
        "oneOf",
        "not",
    }
    assert not set(part) - known - of_objects - {"$schema", "$defs", "description", "default"}
    if "type" in part and (
        not isinstance(data, TYPES[part["type"]])
        or (isinstance(data, bool) and part["type"] in ("integer", "number"))
    ):
        yield f"{data!r} is no {part['type']}"
        return
    if "enum" in part and not any(type(x) is type(data) and x == data for x in part["enum"]):
        yield f"{data!r} is none of {part['enum']}"
    if "const" in part and part["const"] != data:
        yield f"{data!r} is not {part['const']}"
    if "not" in part:
        yield "nothing is allowed"
    if "pattern" in part and part["pattern"] not in data:
        yield f"{data!r} has no {part['pattern']}"
    if "anyOf" in part and not any(not list(inner(data, p)) for p in part["anyOf"]):
        yield f"{data!r} fits none of several"
    if "oneOf" in part and sum(not list(inner(data, p)) for p in part["oneOf"]) != 1:
        yield f"{data!r} does not fit exactly one of several"
    if isinstance(data, dict):
        for key, value in data.items():
            more = part.get("properties", {}).get(key, part.get("additionalProperties", {}))
            if more is False:
                yield f"{key} is unknown"
            else:
                yield from inner(value, more)
        yield from (f"{key} is missing" for key in part.get("required", ()) if key not in data)
    if isinstance(data, list):
        if not part.get("minItems", 0) <= len(data) <= part.get("maxItems", math.inf):
            yield f"{len(data)} entries"
        for entry, more in zip(data, part.get("prefixItems") or [part.get("items", {})] * len(data)):
            yield from inner(entry, more)


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
