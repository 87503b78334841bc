"""The dimension analysis: every parameter index gets a label, and the rules say which belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .context import Context, Piece, Unsupported
from .groups import Kind
from .labels import Labels, Reason, UnionFind, Value
from .program import Node, Program, put
from .rules import CONTRACTIONS, RULES, Result, blank

__all__ = ["Analysis", "analyse"]


@dataclass(frozen=True)
class Analysis:
    """What is known about every value and parameter once all rules have run."""

    values: Mapping[str, Value]  # node -> its labelled output; nodes with several outputs are left out
    parameters: Mapping[str, tuple[Labels | None, ...]]  # canonical name -> labels of each dimension
    sets: UnionFind
    pieces: tuple[Piece, ...]
    marks: tuple[tuple[Kind, Labels], ...]
    missing: tuple[Reason, ...]  # calls that no rule understood


def analyse(program: Program) -> Analysis:
    """Run the rules over a program in order.

    An operator without a rule, or one that its rule does not cover, freezes what it touches. Buffers that turn out
    frozen (the frequencies of a rotary embedding, say) are plain constants from the start of a second run: what
    meets them is then blocked where it meets them, and keeps the units that it has along other dimensions.
    """
    run = _run(program, {})
    fixed = run.fixed_buffers()
    if fixed:
        run = _run(program, fixed)
    values = {name: v for name, v in run.values.items() if isinstance(v, Value)}
    context = run.context
    return Analysis(
        values, run.parameters, context.sets, tuple(context.pieces), tuple(context.marks), tuple(run.missing)
    )


_Fixed = Mapping[tuple[str, int], Reason]


def _run(program: Program, fixed: _Fixed) -> _Run:
    run = _Run(program, fixed)
    for node in program.nodes:
        run.visit(node)
    run.settle()
    return run


class _Run:
    def __init__(self, program: Program, fixed: _Fixed) -> None:
        self.program = program
        self.fixed = fixed
        self.context = Context()
        self.values: dict[str, Result] = {}
        self.hints = {n.name: n.hint for n in program.nodes if n.hint is not None}
        self.parameters: dict[str, tuple[Labels | None, ...]] = {}
        self.missing: list[Reason] = []

    def visit(self, node: Node) -> None:
        self.context.here = node
        if node.op == "placeholder":
            self.values[node.name] = self._placeholder(node)
        elif node.op == "output":
            self._freeze(self._arguments(node), self.context.why("is an output of the model"))
        else:
            self.values[node.name] = self._call(node)
        made = self.values.get(node.name)
        if isinstance(made, Value):
            self.values[node.name] = replace(made, mask=node.boolean)

    def settle(self) -> None:
        # Parameters last: a reason that names a call says more than one that names a tensor.
        nodes = sorted(self.program.nodes, key=lambda node: node.op == "placeholder")
        while True:
            before = _census(self.context)
            self.context.settle(v for r in self.values.values() for v in _values(r))
            for node in nodes:  # a tensor that has become one unit may not vanish
                self.context.here = node
                for value in _values(self.values.get(node.name)):
                    self.context.norm(value)
            if _census(self.context) == before:
                return

    def fixed_buffers(self) -> _Fixed:
        """Return the dimensions of buffers that are frozen as a whole, and why."""
        sets, found = self.context.sets, {}
        for name in self.program.buffers & self.parameters.keys():
            for d, labels in enumerate(self.parameters[name]):
                if labels is not None and not sets.find(labels).any():
                    found[name, d] = sets.reason(int(labels[0])) or Reason("has no label")
        return found

    def _placeholder(self, node: Node) -> Result:
        if node.shape is None:
            return None
        shape = node.tensor_shape()
        names = self.program.parameters.get(node.name)
        if names is None:
            return Value(shape, cause=self.context.why("is an input of the model"))
        if not node.floating:
            return Value(shape, static=True)
        labels = self.parameters.get(names[0])
        if labels is None:
            labels = tuple(self.context.sets.fresh(n) if n > 1 else None for n in shape)
            self.parameters[names[0]] = labels
            for d, along in enumerate(labels):
                if along is not None and (names[0], d) in self.fixed:
                    self.context.freeze(along, self.fixed[names[0], d])
            if names[0] in self.program.shared:
                self._freeze_parameter(labels, "shares its memory with a tensor of another form")
            if not self.program.readers[names[0]]:
                self._freeze_parameter(labels, "is not used")
        fields = [
            along.reshape([n if k == d else 1 for k, n in enumerate(shape)])
            for d, along in enumerate(labels)
            if along is not None
        ]
        return Value(shape, tuple(fields), static=True)

    def _freeze_parameter(self, labels: tuple[Labels | None, ...], text: str) -> None:
        for along in labels:
            if along is not None:
                self.context.freeze(along, text)

    def _call(self, node: Node) -> Result:
        args, kwargs = self._arguments(node)
        inputs = _values((args, kwargs))
        rule = RULES.get(node.op)
        if rule is None:
            return self._unknown(node, f"no rule for operator {node.op}")
        try:
            result = rule(self.context, node, *args, **kwargs)
        except Unsupported as form:
            return self._unknown(node, f"{node.op}: {form}")
        except Exception as error:
            # Law 6: whatever goes wrong in a rule freezes what the call touches, and tracing goes on. A rule
            # meets arguments of models that nobody here has seen, so no narrower class would do.
            return self._unknown(node, f"{node.op}: the rule failed ({type(error).__name__}: {error})")
        if not _fits(result, node):
            return self._unknown(node, f"{node.op}: the rule predicts another shape")
        static = all(v.static for v in inputs)
        # A contraction makes its dimensions anew: why those of its inputs are frozen says nothing about them.
        cause = None if node.op in CONTRACTIONS else next((v.cause for v in inputs if v.cause), None)
        return _inherit(result, static, cause)

    def _unknown(self, node: Node, text: str) -> Result:
        why = self.context.why(text)
        touched = _values(self._arguments(node))
        if any(f.any() for v in touched for f in self.context.norm(v).fields):
            self.missing.append(why)
        self._freeze(self._arguments(node), why)
        return _inherit(blank(node), all(v.static for v in touched), why)

    def _freeze(self, argument: Any, why: Reason) -> None:
        for value in _values(argument):
            for labels in value.fields:
                self.context.freeze(labels, why)

    def _arguments(self, node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a call: labelled values, and the symbolic sizes of the example."""
        known: Any = put((node.args, node.kwargs), lambda name: self.hints.get(name, self.values.get(name)))
        return known  # type: ignore[no-any-return]


def _values(argument: Any) -> list[Value]:
    if isinstance(argument, Value):
        return [argument]
    if isinstance(argument, Mapping):
        argument = tuple(argument.values())
    if isinstance(argument, (list, tuple)):
        return [v for a in argument for v in _values(a)]
    return []


def _fits(result: Result, node: Node) -> bool:
    if result is None or isinstance(result, Value):
        return result is None or result.shape == node.shape
    several = node.several
    if several is None or len(result) != len(several):
        return False
    return all(v is None or v.shape == s for v, s in zip(result, several, strict=True))


def _inherit(result: Result, static: bool, cause: Reason | None) -> Result:
    def told(value: Value | None) -> Value | None:
        return None if value is None else replace(value, static=static, cause=value.cause or cause)

    return told(result) if result is None or isinstance(result, Value) else [told(v) for v in result]


def _census(context: Context) -> int:
    """The number of different live units; it only ever falls."""
    return len(np.unique(context.find(np.arange(len(context.sets)))))
