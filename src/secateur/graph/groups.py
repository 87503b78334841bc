"""Groups: the dimensions of all parameters that must lose the same units together, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["Frozen", "Group", "Kept", "Kind", "Segment", "Site", "Slice"]

Kind = Literal["channel", "head", "conv-group"]

Kept = Mapping[str, tuple[int, ...]]
"""A selection: for each group id the kept units, ascending. A group that is not named keeps all its units."""


@dataclass(frozen=True)
class Slice:
    """What a group's units own in one dimension of one parameter or buffer.

    ``owner[i]`` is the unit that index ``i`` belongs to, or -1 where it belongs to no unit of this group.
    """

    parameter: str
    dim: int
    owner: tuple[int, ...]


@dataclass(frozen=True)
class Site:
    """Where a group meets a convolution or linear call: as its producer (dim 0) or its consumer (dim 1).

    Depthwise convolutions are neither: their channels only pass through (they appear in `Group.slices`).
    """

    parameter: str  # the weight, by its canonical name
    dim: int
    node: str  # the call
    op: str  # its operator family: "conv2d", "linear"
    value: str  # the node whose output it reads (consumer) or makes (producer)
    value_dim: int  # the dimension of that value along which the group's units lie


@dataclass(frozen=True)
class Segment:
    """Units of which at least one must stay, beyond what "a group keeps one unit" says: one piece of a cat or split."""

    units: frozenset[int]
    reason: str


@dataclass(frozen=True)
class Group:
    """Units that can be removed, and every dimension of every parameter that goes with them."""

    id: str  # the module path of its first producer
    kind: Kind
    size: int  # number of units
    slices: tuple[Slice, ...]
    producers: tuple[Site, ...]
    consumers: tuple[Site, ...]
    segments: tuple[Segment, ...] = ()
    # All units may go: what is left is a constant that is only added to another value.
    removable: bool = False

    def owner(self, parameter: str, dim: int) -> tuple[int, ...]:
        """Return the owner of each index of a parameter's dimension.

        Raises:
            KeyError: the group owns nothing there.
        """
        for s in self.slices:
            if s.parameter == parameter and s.dim == dim:
                return s.owner
        raise KeyError(f"group {self.id} owns nothing in dimension {dim} of {parameter}")


@dataclass(frozen=True)
class Frozen:
    """A parameter dimension that may not shrink, and why."""

    parameter: str
    dim: int
    reason: str
    op: str
    module: str
    source: str  # file and line of the model's code, or ""
