"""A plan: what to cut out of a model and which values its tensors take afterwards, as plain data."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import AfterValidator, ConfigDict, FailFast, Field, StrictBool
from torch import Tensor

from secateur.blocks import BlockPattern

__all__ = [
    "Edit",
    "Fingerprint",
    "Function",
    "Literal",
    "Plan",
    "RemoveBranch",
    "Resize",
    "Retrace",
    "RewriteCode",
    "SetAttribute",
    "SliceTensor",
    "plain",
]


# What a file may say: annotations that `plan_json` reads by, and Python does not look at.
MAX_DIMS = 8
MAX_SIZE = 2**31
MAX_STEPS = 100  # of a chain, before the last
Size = Annotated[int, Field(strict=True, ge=-MAX_SIZE, le=MAX_SIZE)]
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_SIZE)]
Dim = Annotated[Count, Field(le=MAX_DIMS)]
Name = Annotated[str, Field(min_length=1, max_length=1024)]
ModulePath = Annotated[str, Field(max_length=1024)]
Names = Annotated[tuple[Name, ...], FailFast()]
Setting = Size | Annotated[tuple[Size, ...], Field(max_length=64)]
"""The value of a module attribute that a plan may set (a list stays one)."""


def ascending(index: Iterable[int]) -> bool:
    """Say whether indices ascend, each once."""
    return all(a < b for a, b in itertools.pairwise(index))


def _ascending(index: tuple[int, ...]) -> tuple[int, ...]:
    if not ascending(index):
        raise ValueError("must ascend, each index once")
    return index


def _public(attribute: str) -> str:
    if not attribute.isidentifier() or attribute.startswith("_"):
        raise ValueError(f"{attribute!r:.60} is not a public attribute name")
    return attribute


Index = Annotated[tuple[Count, ...], FailFast(), AfterValidator(_ascending)]


class Plain:
    """A part of a plan that a file can hold: it has these entries and no others; ``edit`` says which one it is."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")


def plain(value: object) -> Setting | None:
    """Return the value of an attribute as a plan holds it, or None where a plan may not set it.

    >>> plain([2, 4]), plain(3), plain(True), plain(())
    ((2, 4), 3, None, None)
    """
    if type(value) is int:
        return value
    if type(value) in (list, tuple) and value and all(type(n) is int for n in value):  # type: ignore[attr-defined]
        return tuple(value)  # type: ignore[arg-type]
    return None


@dataclass(frozen=True)
class Fingerprint(Plain):
    """Which dense model a plan was made for: its class, and a hash over the names and shapes of its state."""

    model: Name
    digest: Name


@dataclass(frozen=True)
class SliceTensor(Plain):
    """Keep only some indices of one dimension of a parameter or buffer (under every name that it has)."""

    edit: typing.Literal["slice"] = field(default="slice", kw_only=True, repr=False)
    names: Annotated[Names, Field(min_length=1)]
    dim: Dim
    index: Annotated[Index, Field(min_length=1)]
    size: Count  # before


@dataclass(frozen=True)
class SetAttribute(Plain):
    """Set an attribute of a module, for instance ``groups`` of a convolution."""

    edit: typing.Literal["set"] = field(default="set", kw_only=True, repr=False)
    module: ModulePath
    attribute: Annotated[Name, AfterValidator(_public)]
    old: Setting
    new: Setting


@dataclass(frozen=True)
class RemoveBranch(Plain):
    """A residual branch without units: its last layers yield a constant, the modules before them go.

    The constant of layer ``m`` is ``tensors["m.value"]`` of the plan, with one entry for each output channel.
    """

    edit: typing.Literal["remove_branch"] = field(default="remove_branch", kw_only=True, repr=False)
    constants: Names  # layers whose output is now a constant
    removed: Names  # layers that nothing needs any more: they make small blank tensors
    skipped: Names = ()  # layers behind the constants, already folded into them: now the identity
    written_out: StrictBool = False  # the constant takes the full shape, for a join that adds to it in place

    @property
    def paths(self) -> tuple[str, ...]:
        """All modules that it takes out or puts something else in place of."""
        return (*self.constants, *self.removed, *self.skipped)


class Resize(NamedTuple):
    """A size among the arguments of a call: ``place`` leads to it through nested arguments."""

    call: Count  # its number among the calls that the module makes
    place: tuple[Count, ...]
    old: Size
    new: Size


@dataclass(frozen=True)
class Retrace(Plain):
    """A module whose code repeats sizes as numbers: its forward becomes the calls that were traced, resized.

    Applying it exports the dense model again, on `Plan.example`; ``digest`` says what has to come out.
    """

    edit: typing.Literal["retrace"] = field(default="retrace", kw_only=True, repr=False)
    module: ModulePath
    digest: Name
    sizes: Annotated[tuple[Resize, ...], FailFast()]


class Literal(NamedTuple):
    """An integer in place of an expression of a function's code.

    ``old`` is what the expression is worth in the dense model; ``new`` may be -1, for a size that torch finds out;
    ``place`` is its number among the expressions of the function, in the order of the syntax tree.
    """

    place: Count
    old: Size
    new: Annotated[int, Field(strict=True, ge=-1, le=MAX_SIZE)]


@dataclass(frozen=True)
class Function(Plain):
    """A function of a module's code with other numbers in it.

    ``path`` says how the code reaches it: a method by its name, a function by the method that calls it and the name
    by which it does. ``digest`` is a hash over what the function does as it is in its source.
    """

    path: Annotated[Names, Field(min_length=1, max_length=MAX_DIMS)]
    digest: Name
    literals: Annotated[tuple[Literal, ...], FailFast()]


@dataclass(frozen=True)
class RewriteCode(Plain):
    """A module whose code repeats sizes as numbers: it runs the code of its class with other numbers.

    A module that stands under several names is one module: one of them is given.
    """

    edit: typing.Literal["rewrite"] = field(default="rewrite", kw_only=True, repr=False)
    module: ModulePath
    functions: Annotated[tuple[Function, ...], FailFast()]


Edit = SliceTensor | SetAttribute | RemoveBranch | RewriteCode | Retrace


@dataclass(frozen=True)
class Plan:
    """All that `apply` needs: which units stay, the edits that follow from it, and the repaired tensors.

    ``tensors`` holds values in the *smaller* shapes; parameters that are not named keep their sliced values.
    ``example`` describes the inputs that were traced, as plain data, where an edit needs them, and ``batch_dims`` says
    of each which dimension counts samples (None: it is found again). ``patterns`` says, by
    parameter, which blocks of those values are zero or unified. ``first`` are plans that are applied before this one,
    in order, each for the model that the one before it leaves: of a model that was pruned, trained and pruned again.
    """

    kept: Mapping[str, tuple[int, ...]]
    edits: tuple[Edit, ...]
    made_for: Fingerprint
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    example: Any = None
    patterns: Mapping[str, BlockPattern] = field(default_factory=dict)
    first: tuple[Plan, ...] = ()
    batch_dims: tuple[int | None, ...] | None = None

    @property
    def steps(self) -> tuple[Plan, ...]:
        """The plans of the chain, this one last; none of them has plans before it."""
        return (*self.first, replace(self, first=()) if self.first else self)
