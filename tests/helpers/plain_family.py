"""Dataclasses with every kind of annotation, values of them, real methods, and the tables of names for both."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from hypothesis import strategies as st
from torch import nn

import secateur as sc
from secateur.blocks import AcrossLayers, Block, Place, PruneFirst, Reshape, Shares
from secateur.ground.importing import import_callable, name_of
from secateur.ground.plain import Form, Names
from secateur.methods import Fading, Order, nn_relief
from secateur.methods.names import names
from secateur.selection import Allocation
from secateur.training import LayerWise


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


# Real ones, with the table of names that recipes have.

REAL: Names = names()
BLOCKS = sc.MicroStructured(
    Block(4, 2, taps=3),
    0.5,
    0.25,
    shares={"layer1.*": Shares(0.2)},
    blocks={"fc": Block(4, 4, reshape=Reshape.INPUTS), "*.conv1": Block(8, 1)},
    skip=("stem", nn.Embedding, Place.HEAD, Place.FIRST_CONVOLUTION, "head"),
    assignment=PruneFirst(),
    spread=AcrossLayers(0.9),
)
VALUES: list[Any] = [
    sc.SNP(),
    sc.SNP.paper(),
    *(sc.SNP(order=order()) for order in REAL[Order].values()),  # type: ignore[union-attr]
    *(sc.SNP(allocation=a()) for a in REAL[Allocation].values()),  # type: ignore[union-attr]
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
    sc.IrrelevanceDecay(0.1, schedule=Fading(5), only=("conv*", nn.Linear)),
    sc.methods.WeightDecay(p=1),
    sc.GradualMagnitude(0.5, scope=LayerWise(), exclude=(nn.BatchNorm2d,)),
    sc.methods.Lobster(tolerance=0.1),
    sc.NNRelief(pivot=nn_relief.PivotRule.NEXT_GOES, propagation=nn_relief.Propagation.PRUNED),
    sc.ADMM(),
    sc.ADMM(BLOCKS.__class__(zero=0.6, unify=0.2), 2, (0.1, 1.0), 2, tied=False),
    sc.ADMM.prune_first(sc.MicroStructured(zero=0.7, unify=0.15), epochs=6),
]
