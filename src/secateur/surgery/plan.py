"""A plan: what to cut out of a model and which values its tensors take afterwards, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

__all__ = ["Edit", "Plan", "RemoveBranch", "SetAttribute", "SliceTensor"]


@dataclass(frozen=True)
class SliceTensor:
    """Keep only some indices of one dimension of a parameter or buffer (under every name that it has)."""

    names: tuple[str, ...]
    dim: int
    index: tuple[int, ...]
    size: int  # before


@dataclass(frozen=True)
class SetAttribute:
    """Set an integer (or tuple) attribute of a module, for instance ``groups`` of a convolution."""

    module: str
    attribute: str
    old: Any
    new: Any


@dataclass(frozen=True)
class RemoveBranch:
    """A residual branch without units: its last layers yield a constant, the modules before them go."""

    constants: tuple[str, ...]  # modules whose output is now the constant in tensors["<module>.value"]
    removed: tuple[str, ...]  # modules that nothing needs any more


Edit = SliceTensor | SetAttribute | RemoveBranch


@dataclass(frozen=True)
class Plan:
    """All that `apply` needs: which units stay, the edits that follow from it, and the repaired tensors.

    ``tensors`` holds values in the *smaller* shapes; parameters that are not named keep their sliced values.
    """

    kept: Mapping[str, tuple[int, ...]]
    edits: tuple[Edit, ...]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
