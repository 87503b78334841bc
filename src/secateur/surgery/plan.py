"""A plan: what to cut out of a model and which values its tensors take afterwards, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from secateur.blocks import BlockPattern
from secateur.ground.checked import Setting

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
class Fingerprint:
    """Which dense model a plan was made for: its class, and a hash over the names and shapes of its state."""

    model: str
    digest: str


@dataclass(frozen=True)
class SliceTensor:
    """Keep only some indices of one dimension of a parameter or buffer (under every name that it has)."""

    names: tuple[str, ...]
    dim: int
    index: tuple[int, ...]
    size: int  # before


@dataclass(frozen=True)
class SetAttribute:
    """Set an attribute of a module, for instance ``groups`` of a convolution."""

    module: str
    attribute: str
    old: Setting
    new: Setting


@dataclass(frozen=True)
class RemoveBranch:
    """A residual branch without units: its last layers yield a constant, the modules before them go.

    The constant of layer ``m`` is ``tensors["m.value"]`` of the plan, with one entry for each output channel.
    """

    constants: tuple[str, ...]  # layers whose output is now a constant
    removed: tuple[str, ...]  # layers that nothing needs any more: they make small blank tensors
    skipped: tuple[str, ...] = ()  # layers behind the constants, already folded into them: now the identity
    written_out: bool = False  # the constant takes the full shape, for a join that adds to it in place

    @property
    def paths(self) -> tuple[str, ...]:
        """All modules that it takes out or puts something else in place of."""
        return (*self.constants, *self.removed, *self.skipped)


@dataclass(frozen=True)
class Resize:
    """A size among the arguments of a call: ``place`` leads to it through nested arguments."""

    call: int  # its number among the calls that the module makes
    place: tuple[int, ...]
    old: int
    new: int


@dataclass(frozen=True)
class Retrace:
    """A module whose code repeats sizes as numbers: its forward becomes the calls that were traced, resized.

    Applying it exports the dense model again, on `Plan.example`; ``digest`` says what has to come out.
    """

    module: str
    digest: str
    sizes: tuple[Resize, ...]


@dataclass(frozen=True)
class Literal:
    """An integer in place of an expression of a function's code.

    ``old`` is what the expression is worth in the dense model; ``new`` may be -1, for a size that torch finds out;
    ``place`` is its number among the expressions of the
    function, in the order of the syntax tree.
    """

    place: int
    old: int
    new: int


@dataclass(frozen=True)
class Function:
    """A function of a module's code with other numbers in it.

    ``path`` says how the code reaches it: a method by its name, a function by the method that calls it and the name
    by which it does. ``digest`` is a hash over what the function does as it is in its source.
    """

    path: tuple[str, ...]
    digest: str
    literals: tuple[Literal, ...]


@dataclass(frozen=True)
class RewriteCode:
    """A module whose code repeats sizes as numbers: it runs the code of its class with other numbers.

    A module that stands under several names is one module: one of them is given.
    """

    module: str
    functions: tuple[Function, ...]


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
