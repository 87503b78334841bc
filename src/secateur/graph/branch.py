"""Branches that may lose all their units, because they then only add a constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .analysis import Analysis
from .grouping import Units
from .groups import Group
from .layers import Layer
from .program import DROPOUTS, IDENTITIES, Node, Program, references

__all__ = ["Branch", "find_branches"]

PASSES = IDENTITIES | DROPOUTS | {"batch_norm"}


@dataclass(frozen=True)
class Branch:
    """What becomes of a residual branch when its group loses every unit."""

    constants: tuple[str, ...]  # the consumer calls: their output is now the same at every position
    dead: tuple[str, ...]  # the calls that only feed them, in order
    join: str  # the addition that takes the constant
    tails: Mapping[str, tuple[Node, ...]]  # by constant: the calls between it and that addition


def find_branches(
    program: Program, analysis: Analysis, units: Units, layers: Sequence[Layer], groups: Sequence[Group]
) -> dict[str, Branch]:
    """Return, for each group whose branch can do without units, what is then left of it.

    It can if some consumers read nothing but this group, their outputs pass only batch norms and identities
    on their way to one addition, whose other operand has the full shape and does not come from the group,
    and all other calls that carry the group's units serve only those consumers.
    """
    by_node = {layer.node: layer for layer in layers}
    carriers = _carriers(program, analysis, units, groups)
    branches = {}
    for group in groups:
        branch = _find_branch(program, by_node, group, carriers[group.id])
        if branch is not None:
            branches[group.id] = branch
    return branches


def _carriers(
    program: Program, analysis: Analysis, units: Units, groups: Sequence[Group]
) -> dict[str, set[str]]:
    """Group -> the calls whose output carries its units."""
    group_of = np.concatenate([*(np.full(g.size, i) for i, g in enumerate(groups)), [-1]]).astype(np.int64)
    carriers: dict[str, set[str]] = {group.id: set() for group in groups}
    for node in program.nodes:
        value = analysis.values.get(node.name)
        if value is None or node.op == "placeholder":
            continue
        for labels in value.fields:
            for i in np.unique(group_of[units.of(labels)]).tolist():
                if i >= 0:
                    carriers[groups[i].id].add(node.name)
    return carriers


def _find_branch(
    program: Program, layers: Mapping[str, Layer], group: Group, carriers: set[str]
) -> Branch | None:
    paths = {s.node: path for s in group.consumers if (path := _path(program, s.node)) is not None}
    ends, joins = set(paths), {path[-1].name for path in paths.values()}
    if len(joins) != 1 or not all(_reads_only(group, layers[end]) for end in ends):
        return None
    dead = _only_feeding(program, ends)
    if not carriers <= dead or any(s.node not in ends | dead for s in group.consumers):
        return None
    order = [node.name for node in program.nodes]
    return Branch(
        constants=tuple(n for n in order if n in ends),
        dead=tuple(n for n in order if n in dead),
        join=joins.pop(),
        tails={name: path[:-1] for name, path in paths.items()},
    )


def _path(program: Program, name: str) -> tuple[Node, ...] | None:
    """Follow an output through batch norms and identities to the addition that takes it, which comes last."""
    path = program.follow(name, PASSES)
    if not path or path[-1].op != "add":
        return None
    read = [name, *(node.name for node in path)]
    passed = all(references(node.args[0]) == [value] for value, node in zip(read, path[:-1]))
    return path if passed and _adds_to_full(program, path[-1], read[-2]) else None


def _adds_to_full(program: Program, node: Node, name: str) -> bool:
    operands = [references(a) for a in node.args[:2]]
    if len(operands) < 2 or any(len(o) != 1 for o in operands):
        return False
    (first,), (second,) = operands
    other = program.node(second if first == name else first)
    return first != second and other.shape == node.shape and other.op != "placeholder"


def _reads_only(group: Group, layer: Layer) -> bool:
    return layer.groups == 1 and min(group.owner(layer.weight, layer.in_dim)) >= 0


def _only_feeding(program: Program, ends: set[str]) -> set[str]:
    """The calls all of whose outputs end up in these nodes."""
    dead: set[str] = set()
    for node in reversed(program.nodes):
        users = [user.name for user in program.users[node.name]]
        called = node.op not in ("placeholder", "output", "get_attr")
        if called and node.name not in ends and users and all(u in dead or u in ends for u in users):
            dead.add(node.name)
    return dead
