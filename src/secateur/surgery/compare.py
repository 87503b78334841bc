"""Compare the calls of a smaller model, exported again, with what the dense graph predicted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from secateur.graph.export import export_program
from secateur.graph.graph import Graph
from secateur.graph.groups import Kept
from secateur.graph.program import Node, Program, Ref, references
from secateur.ground.errors import SurgeryError

from .branches import emptied
from .prediction import INFERRED, SIZES, Prediction, predict

__all__ = ["Match", "MismatchError", "compare", "place"]


class MismatchError(SurgeryError):
    """A call is not the one that was predicted; ``module`` is the path of the module that makes it."""

    def __init__(self, message: str, module: str) -> None:
        super().__init__(message)
        self.module = module


@dataclass(frozen=True)
class Match:
    """The smaller model's program, and the pairs of calls (dense, smaller) that stand for one another."""

    program: Program
    pairs: tuple[tuple[Node, Node], ...]


def compare(smaller: nn.Module, graph: Graph, kept: Kept) -> Match:
    """Export the smaller model and compare every call, shape and constant with the prediction.

    Calls on which no output depends are left out, and so are copies and what a removed branch was made of.

    Raises:
        MismatchError: a call differs; the message names the first that does.
        TraceError: the smaller model cannot be exported.
    """
    prediction = predict(graph, kept)
    args, kwargs = graph.program.example
    program = export_program(smaller, args, kwargs, batch_dims=graph.program.batch_dims)
    branches = emptied(graph, kept).values()
    ends = {name for branch in branches for name in branch.constants}
    behind = {n.name for b in branches for name in b.constants for n in b.tails[name]}
    fixed = {node.module for node in graph.program.nodes if node.name in ends}
    dense = _live(graph.program, ends, behind)
    small = _live(program, {n.name for n in program.nodes if n.module in fixed}, set())
    names = _Names(graph.program, program)
    for old, new in zip(dense, small, strict=False):
        names.match[old.name] = new.name
        _check(old, new, prediction, names)
    if len(dense) != len(small):
        longer = dense if len(dense) > len(small) else small
        extra = longer[min(len(dense), len(small))]
        raise MismatchError(
            f"the smaller model has {len(small)} calls, {len(dense)} were predicted; the first that has no "
            f"partner is {place(extra)}",
            extra.module,
        )
    return Match(program, tuple(zip(dense, small, strict=True)))


class _Names:
    """Which value of the smaller program stands for which value of the dense one."""

    def __init__(self, dense: Program, small: Program) -> None:
        self._dense = dense.parameters
        self._small = small.parameters
        self._copies = [{n.name: n.args[0].name for n in p.nodes if _is_copy(n)} for p in (dense, small)]
        self.match: dict[str, str] = {}

    def same(self, old: str, new: str) -> bool:
        while old in self._copies[0]:
            old = self._copies[0][old]
        while new in self._copies[1]:
            new = self._copies[1][new]
        if old in self._dense or new in self._small:
            return self._dense.get(old, ("",))[0] == self._small.get(new, ("",))[0]
        # What was left out (a branch, symbolic sizes) has no partner to compare with.
        return self.match.get(old, new) == new


def _live(program: Program, ends: Iterable[str], behind: Iterable[str]) -> list[Node]:
    """Return the calls on which an output depends, up to the calls at which to stop, without parameters."""
    ends, behind = set(ends), set(behind)
    by_name = {node.name: node for node in program.nodes}
    writes: dict[str, list[str]] = defaultdict(list)  # memory -> the calls that write into it
    for node in program.nodes:
        if node.writes:
            writes[_memory(by_name, node.name)].append(node.name)
    needed: set[str] = set()
    waiting = [node.name for node in program.nodes if node.op == "output"]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            if name not in ends:
                waiting += references((by_name[name].args, by_name[name].kwargs))
                waiting += writes[_memory(by_name, name)]
    left = needed - ends - behind
    return [
        node
        for node in program.nodes
        if node.name in left
        and node.name not in program.parameters
        and node.hint is None
        and not _is_copy(node)
    ]


def _is_copy(node: Node) -> bool:
    """Whether a call changes the layout in memory at most: it is left out where there is nothing to change."""
    return node.op == "contiguous" and isinstance(node.args[0], Ref)


def _memory(nodes: Mapping[str, Node], name: str) -> str:
    """Return the call that made the memory that a value may be a view of."""
    while (node := nodes[name]).args and isinstance(node.args[0], Ref):
        if node.op != "getitem" and not any(a.alias_info for a in _declared(node)[:1]):
            break
        name = node.args[0].name
    return name


def _declared(node: Node) -> Sequence[Any]:
    """Return the arguments that the operator of a call declares; nothing where it is none of torch's."""
    parts = node.overload.split(".")
    if parts[0] != "aten" or len(parts) != 3:
        return ()
    declared: Sequence[Any] = getattr(getattr(torch.ops.aten, parts[1]), parts[2])._schema.arguments
    return declared


def _check(old: Node, new: Node, prediction: Prediction, names: _Names) -> None:
    if old.op != new.op:
        raise MismatchError(f"{place(new)} stands where {place(old)} was predicted", new.module)
    expected = prediction.after.get(old.name)
    if expected is not None and expected != new.shape:
        raise MismatchError(f"{place(new)} makes the shape {new.shape}, predicted was {expected}", new.module)
    arguments = prediction.arguments(old)
    if not (
        _same(
            _told(old, _found_out(old, arguments, expected)),
            _told(new, _found_out(new, new.args, new.shape)),
            names,
        )
        and _same(old.kwargs, new.kwargs, names)
    ):
        raise MismatchError(
            f"{place(new)} has the arguments {_plain((*new.args, *new.kwargs.items()))}, "
            f"predicted were {_plain((*arguments, *old.kwargs.items()))}",
            new.module,
        )


def _found_out(node: Node, arguments: tuple[Any, ...], shape: Any) -> tuple[Any, ...]:
    """Return the arguments with the size that torch finds out in place of a -1."""
    at = SIZES.get(node.op)
    if at is None or node.op not in INFERRED or at >= len(arguments) or shape is None:
        return arguments
    sizes = tuple(n if size == -1 else size for size, n in zip(arguments[at], shape, strict=True))
    return (*arguments[:at], sizes, *arguments[at + 1 :])


def _told(node: Node, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments without defaults at the end: a convolution whose last group is left needs no ``groups``."""
    end = len(arguments)
    for declared, argument in reversed(list(zip(_declared(node), arguments, strict=False))):
        if not (declared.has_default_value() and _is(declared.default_value, argument)):
            break
        end -= 1
    return arguments[:end]


def _is(default: Any, argument: Any) -> bool:
    if isinstance(argument, tuple):
        values = default if isinstance(default, list) else [default] * len(argument)
        return list(argument) == values
    return type(default) is type(argument) and bool(default == argument)


def _same(old: Any, new: Any, names: _Names) -> bool:
    if isinstance(old, Ref) and isinstance(new, Ref):
        return names.same(old.name, new.name)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return old.keys() == new.keys() and all(_same(old[key], new[key], names) for key in old)
    if isinstance(old, tuple) and isinstance(new, tuple):
        return len(old) == len(new) and all(_same(a, b, names) for a, b in zip(old, new, strict=True))
    return type(old) is type(new) and bool(old == new)


def place(node: Node) -> str:
    """Return the operator of a call, and where in the model and in its code it is made."""
    module = f" in {node.module}" if node.module else ""
    source = f" ({node.source})" if node.source else ""
    return f"{node.op}{module}{source}"


def _plain(argument: Any) -> str:
    if isinstance(argument, Ref):
        return argument.name
    if isinstance(argument, tuple):
        return "(" + ", ".join(map(_plain, argument)) + ")"
    return repr(argument)
