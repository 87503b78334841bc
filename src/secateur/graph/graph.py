"""Graph: a traced model, its groups, and what any selection would make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from secateur.ground.errors import SurgeryError, UnknownNameError, did_you_mean

from .adapters import Adapter, find_adapters
from .analysis import Analysis
from .branch import Branch
from .grouping import Units
from .groups import Frozen, Group, Kept
from .labels import Labels
from .layers import Layer
from .predict import Alive, CostModel, alive_units, predict_shape
from .program import Node, Program, Shape, references
from .rules import PRODUCTS
from .show import to_text

__all__ = ["Graph"]

_EVERYTHING: Kept = {}
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Graph:
    """What is connected to what in a model, as seen by pruning.

    A selection (`kept`) maps group ids to the units that stay; groups that it does not name keep all.
    """

    program: Program
    groups: tuple[Group, ...]  # in order of their first producer
    frozen: tuple[Frozen, ...]
    layers: tuple[Layer, ...]  # the convolution and linear calls, in order
    branches: Mapping[str, Branch]  # of the removable groups
    _analysis: Analysis = field(repr=False)
    _units: Units = field(repr=False)

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self) -> str:
        """Return a table of the groups and of what is frozen and why."""
        return to_text(self)

    def group(self, id: str) -> Group:
        """Return a group by its id.

        Raises:
            UnknownNameError: there is none of that name.
        """
        return _known(self._by_id, id, "group")

    def branch(self, id: str) -> Branch | None:
        """Return what is left of a group's residual branch without units; None if the group is not removable.

        Raises:
            UnknownNameError: there is no group of that name.
        """
        return self.branches.get(self.group(id).id)

    def users(self, node: str) -> tuple[Node, ...]:
        """Return the nodes that read a node's output.

        Raises:
            UnknownNameError: there is no node of that name.
        """
        return _known(self.program.users, node, "node")

    def sizes(self, kept: Kept = _EVERYTHING) -> dict[str, Shape]:
        """Return the shape of every node with one tensor output after a selection (batch of the example).

        Raises:
            UnknownNameError: the selection names a group that does not exist.
            SurgeryError: it names a unit that does not exist, or its units do not form a full grid.
        """
        alive = self._alive(kept)
        return {name: predict_shape(name, v, self._units, alive) for name, v in self._analysis.values.items()}

    def surviving(self, parameter: str, dim: int, kept: Kept) -> NDArray[np.int64]:
        """Return the indices of a parameter's dimension that stay, ascending, after all groups' selections.

        Raises:
            UnknownNameError: there is no such parameter, or the selection names an unknown group.
            SurgeryError: the selection names a unit that does not exist.
        """
        labels = _known(self._labels, parameter, "parameter")[dim]
        alive = self._alive(kept)
        if labels is None:
            return np.arange(self.program.shapes[parameter][dim])
        return np.flatnonzero(alive[self._units.of(labels)])

    def surviving_along(self, node: str, dim: int, kept: Kept) -> NDArray[np.int64]:
        """Return the indices of a dimension of a node's output that stay, ascending.

        Raises:
            UnknownNameError: no node of that name has one tensor output, or the selection names an unknown group.
            SurgeryError: the selection names a unit that does not exist.
        """
        value = _known(self._analysis.values, node, "value")
        alive = self._alive(kept)
        for labels in value.fields:
            if labels.shape[dim] > 1:
                others = tuple(d for d in range(labels.ndim) if d != dim % labels.ndim)
                return np.flatnonzero(alive[self._units.of(labels)].any(axis=others))
        return np.arange(value.shape[dim])

    def shapes(self, kept: Kept = _EVERYTHING) -> dict[str, Shape]:
        """Return the shape of every parameter and buffer, by canonical name, after a selection."""
        alive = self._alive(kept)
        return {
            name: tuple(
                n if labels is None else int(alive[self._units.of(labels)].sum())
                for n, labels in zip(shape, self._labels[name], strict=True)
            )
            for name, shape in self.program.shapes.items()
        }

    def macs(self, kept: Kept = _EVERYTHING) -> dict[str, int]:
        """Return the multiply-accumulates of each convolution, linear and matrix product call, for one sample."""
        gone = self.dropped(kept)
        return {name: n for name, n in self._cost.macs(self._alive(kept)).items() if name not in gone}

    def total_macs(self, kept: Kept = _EVERYTHING) -> int:
        """Return the multiply-accumulates of the whole model, for one sample."""
        return sum(self.macs(kept).values())

    def params(self, kept: Kept = _EVERYTHING) -> int:
        """Return the number of parameters (tied ones once, no buffers); those of removed branches do not count."""
        gone = self.orphans(kept)
        shapes = self.shapes(kept)
        return sum(
            prod(shape)
            for name, shape in shapes.items()
            if name not in self.program.buffers and name not in gone
        )

    def elements(self, kept: Kept = _EVERYTHING) -> dict[str, int]:
        """Return the size of every node's output that is one tensor (batch of the example), without dropped calls."""
        gone = self.dropped(kept)
        return {name: n for name, n in self._cost.elements(self._alive(kept)).items() if name not in gone}

    def dropped(self, kept: Kept) -> set[str]:
        """Return the calls that are gone because their branch has no units."""
        return {
            name
            for id, units in kept.items()
            if not units and id in self.branches
            for name in (*self.branches[id].dead, *self.branches[id].constants)
        }

    def orphans(self, kept: Kept) -> set[str]:
        """Return the parameters and buffers that only dropped calls read, by canonical name."""
        dropped = self.dropped(kept)
        return (
            {name for name, readers in self.program.readers.items() if readers <= dropped}
            if dropped
            else set()
        )

    @cached_property
    def adapters(self) -> tuple[Adapter, ...]:
        """Low-rank adapters beside layers, see `Adapter`."""
        return find_adapters(self.program, self.layers)

    @cached_property
    def computed(self) -> frozenset[str]:
        """Parameters from which calls compute the weights that they multiply by, by canonical name.

        Such calls are no layers: their weight is parametrised, joined or cut out of others.
        """
        known = {layer.node for layer in self.layers}
        static = {name for name, value in self._analysis.values.items() if value.static}
        waiting: list[str] = []
        for node in self.program.nodes:
            operands = references((node.args, node.kwargs))
            if node.op in PRODUCTS and node.name not in known and not static.issuperset(operands):
                waiting += (name for name in operands if name in static)
        seen: set[str] = set()
        while waiting:  # back from the weights to the parameters that they are computed from
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                node = self.program.node(name)
                waiting += references((node.args, node.kwargs))
        parameters = self.program.parameters
        return frozenset(parameters[name][0] for name in seen if name in parameters)

    @cached_property
    def _by_id(self) -> dict[str, Group]:
        return {group.id: group for group in self.groups}

    @cached_property
    def _cost(self) -> CostModel:
        return CostModel(self.program, self._analysis, self._units)

    @cached_property
    def _labels(self) -> dict[str, tuple[Labels | None, ...]]:
        """The labels of each dimension of every parameter and buffer."""
        known = self._analysis.parameters
        return {name: known.get(name, (None,) * len(shape)) for name, shape in self.program.shapes.items()}

    def _alive(self, kept: Kept) -> Alive:
        sizes = {}
        for id, units in kept.items():
            group = self.group(id)
            sizes[id] = group.size
            if not units and not group.removable:
                raise SurgeryError(f"group {id} must keep at least one of its {group.size} units")
            if units and not (min(units) >= 0 and max(units) < group.size):
                raise SurgeryError(f"group {id} has units 0 to {group.size - 1}; the selection names others")
        return alive_units(self._units, sizes, kept)


def _known(known: Mapping[str, T], name: str, what: str) -> T:
    if name not in known:
        raise UnknownNameError(f"there is no {what} {name!r}.{did_you_mean(name, known)}")
    return known[name]
