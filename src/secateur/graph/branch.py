"""Branches that may lose all their units, because they then only add a constant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from secateur.graph.analysis import Analysis
from secateur.graph.grouping import Units
from secateur.graph.groups import Group
from secateur.graph.labels import Labels
from secateur.graph.layers import Layer
from secateur.graph.program import Node, Program, references

__all__ = ["Branch", "find_branch"]

PASSES = frozenset({"batch_norm", "dropout", "alpha_dropout", "feature_dropout", "clone", "contiguous", "alias",
                    "detach", "to", "_to_copy", "lift_fresh_copy"})  # fmt: skip


@dataclass(frozen=True)
class Branch:
    """What becomes of a residual branch when its group loses every unit."""

    constants: tuple[str, ...]  # the consumer calls: their output is now the same at every position
    dead: tuple[str, ...]  # the calls that only feed them, in order
    join: str  # the addition that takes the constant


class _Flow:
    """Who reads whose output."""

    def __init__(self, program: Program) -> None:
        self.nodes = {node.name: node for node in program.nodes}
        self.users: Mapping[str, list[str]] = defaultdict(list)
        for node in program.nodes:
            for name in dict.fromkeys(references((node.args, node.kwargs))):
                self.users[name].append(node.name)


def find_branch(
    program: Program, analysis: Analysis, units: Units, layers: Mapping[str, Layer], group: Group
) -> Branch | None:
    """Return what would be left of a group's branch without units, or None if it cannot go.

    It can if every consumer reads nothing but this group, its output passes only batch norms and identities on its
    way to one addition, whose other operand has the full shape and does not come from the group, and all
    other calls that carry the group's units serve only those consumers.
    """
    flow = _Flow(program)
    start = units.start[group.id]
    mine = range(start, start + group.size)
    ends = {s.node for s in group.consumers if _join(flow, s.node) is not None}
    joins = {_join(flow, end) for end in ends}
    if len(joins) != 1 or not all(_reads_only(group, layers[end]) for end in ends):
        return None
    dead = _only_feeding(flow, ends)
    for node in program.nodes:
        if node.op == "placeholder" or node.name in dead:
            continue
        value = analysis.values.get(node.name)
        if value is not None and any(_touches(units.of(f), mine) for f in value.fields):
            return None
    if any(s.node not in ends and s.node not in dead for s in group.consumers):
        return None
    order = [n.name for n in program.nodes]
    join = joins.pop()
    assert join is not None
    return Branch(
        tuple(n for n in order if n in ends),
        tuple(n for n in order if n in dead),
        join,
    )


def _join(flow: _Flow, name: str) -> str | None:
    """Follow an output through batch norms and identities to the addition that takes it."""
    while True:
        users = flow.users[name]
        if len(users) != 1:
            return None
        user = flow.nodes[users[0]]
        if user.op == "add":
            return user.name if _adds_to_full(flow, user, name) else None
        if user.op not in PASSES or references(user.args[0]) != [name]:
            return None
        name = user.name


def _adds_to_full(flow: _Flow, node: Node, name: str) -> bool:
    operands = [references(a) for a in node.args[:2]]
    if len(operands) < 2 or any(len(o) != 1 for o in operands):
        return False
    (first,), (second,) = operands
    other = second if first == name else first
    return first != second and flow.nodes[other].shape == node.shape and flow.nodes[other].op != "placeholder"


def _reads_only(group: Group, layer: Layer) -> bool:
    return layer.groups == 1 and min(group.owner(layer.weight, layer.in_dim)) >= 0


def _only_feeding(flow: _Flow, ends: set[str]) -> set[str]:
    """The calls all of whose outputs end up in these nodes."""
    dead: set[str] = set()
    for node in reversed(flow.nodes.values()):
        users = flow.users[node.name]
        called = node.op not in ("placeholder", "output", "get_attr")
        if called and node.name not in ends and users and all(u in dead or u in ends for u in users):
            dead.add(node.name)
    return dead


def _touches(units: Labels, mine: range) -> bool:
    return bool(((units >= mine.start) & (units < mine.stop)).any())
