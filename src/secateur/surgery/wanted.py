"""What the expressions of a module's code have to be worth after a selection: those that calls take as arguments."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from secateur.graph.flat import flat
from secateur.graph.program import Node, Program, Ref

from .prediction import INFERRED, SIZES, Change, Prediction
from .rewrites import same_calls
from .watch import Record, Spot, Watch, places
from .worth import Free, Number, Value, worth

__all__ = ["Argument", "Evidence", "Wanted", "wanted"]


@dataclass(frozen=True)
class Argument:
    """A number among the arguments of a call in the code."""

    expression: ast.expr
    index: int | None  # of the element, where the expression is a sequence
    value: Number


@dataclass(eq=False)
class Evidence:
    """What was seen of one function in the dense model: for the example, and for inputs of other sizes."""

    watch: Watch
    record: Record
    others: Sequence[Record] = ()

    def value(self, expression: ast.expr) -> Value | None:
        """Return what an expression was worth, if it was always the same; `Free` where it follows inputs' sizes."""
        if isinstance(expression, ast.Constant):
            return expression.value if type(expression.value) in (int, float) else None  # type: ignore[return-value]
        number = self.watch.code.source.numbers.get(expression, -1)
        values = self.record.seen.get(number, [])
        if len(values) != 1:
            return None
        return _freed(values[0], [v for other in self.others for v in other.seen.get(number, [])])

    def arguments(self, call: ast.AST) -> list[Argument]:
        """Return the numbers among the arguments of a call, an operation or an index, in order."""
        return [argument for part in _operands(call) for argument in self._within(part)]

    def _within(self, part: ast.expr) -> Iterator[Argument]:
        if isinstance(part, ast.Starred):
            part = part.value
        if isinstance(part, ast.Tuple | ast.List):
            for element in part.elts:
                yield from self._within(element)
            return
        value = self.value(part)
        if isinstance(value, tuple):
            yield from (
                Argument(part, i, v) for i, v in enumerate(value) if isinstance(v, int | float | Free)
            )
        elif value is not None:
            yield Argument(part, None, value)


def _freed(value: Value, others: Iterable[Value]) -> Value:
    for other in others:
        if isinstance(value, tuple) and isinstance(other, tuple) and len(value) == len(other):
            value = tuple(
                _freed(a, [b]) if a is not None and b is not None else a
                for a, b in zip(value, other, strict=True)
            )
        elif type(value) is int and other != value:
            value = Free(value)
    return value


def _operands(call: ast.AST) -> Iterator[ast.expr]:
    match call:
        case ast.Call(_, args, keywords):
            yield from (*args, *(k.value for k in keywords))
        case ast.BinOp(left, _, right):
            yield from (left, right)
        case ast.Compare(left, _, comparators):
            yield from (left, *comparators)
        case ast.Subscript(_, index):
            for part in index.elts if isinstance(index, ast.Tuple) else [index]:
                if isinstance(part, ast.Slice):
                    yield from (bound for bound in (part.lower, part.upper, part.step) if bound is not None)
                else:
                    yield part
        case ast.AugAssign(_, _, value) | ast.UnaryOp(_, value):
            yield value


@dataclass
class Wanted:
    """What the arguments of calls have to be worth, by watch; and of which modules the code could not be read so."""

    values: dict[int, dict[Spot, int | float]] = field(default_factory=dict)
    changed: dict[int, dict[Spot, tuple[int, int]]] = field(
        default_factory=dict
    )  # old and new: those that change
    failed: dict[str, str] = field(default_factory=dict)  # module -> why


def wanted(
    prediction: Prediction, again: Program, evidence: Mapping[int, Evidence], names: Mapping[str, str]
) -> Wanted:
    """Return what a selection wants the arguments of all watched calls to be.

    `again` is a second export of the dense model, made while its code was watched; `evidence` what was seen, by watch;
    `names` has one name of a module for each that it has.

    Raises:
        SurgeryError: the second export makes other calls than the first.
    """
    traces = {name: node.meta.get("stack_trace") for node, name in flat(again.exported.graph_module).items()}
    calls: dict[Site, list[Node]] = {}
    around: dict[Site, list[Site]] = {}
    for name, node in same_calls(prediction.graph.program, again).items():
        stack = [
            (w, evidence[w].watch.lines[line])
            for w, line in places(traces.get(name))
            if w in evidence and names[node.module] in evidence[w].watch.callers
        ]
        if stack:
            calls.setdefault(stack[0], []).append(node)
            around[stack[0]] = stack
    found = Wanted()
    for site, nodes in calls.items():
        resized = {node.name: list(prediction.changes(node)) for node in nodes}
        if any(resized.values()) and not any(
            _claim(found, evidence[w], call, nodes, prediction, resized) for w, call in around[site]
        ):
            found.failed.setdefault(
                evidence[site[0]].watch.module, f"nothing in {_shown(site[1])} is the size that changes"
            )
    for number, call in calls:
        for a in evidence[number].arguments(call):
            if not isinstance(a.value, Free):
                spot = evidence[number].watch.code.source.numbers[a.expression], a.index
                found.values.setdefault(number, {}).setdefault(spot, a.value)
    return found


Site = tuple[int, ast.AST]
"""A watch, and what makes a call in its code."""


def _claim(
    found: Wanted,
    seen: Evidence,
    call: ast.AST,
    nodes: Sequence[Node],
    prediction: Prediction,
    resized: Mapping[str, list[Change]],
) -> bool:
    """Note what the arguments of one call in the code have to be worth; say whether all that changes is among them.

    It may be made several times, with the same arguments and for values of different sizes.
    """
    arguments = seen.arguments(call)
    lists = {place[0] for node in nodes for place, _, _ in resized[node.name] if len(place) == 2}
    claims: dict[int, list[_Claim]] = {}
    for node in nodes:
        left = resized[node.name]
        for at in lists:
            more = _of_list(arguments, node, at, left, prediction)
            for i, claim in more.items():
                claims.setdefault(i, []).append(claim)
            left = [change for change in left if not more or change[0][0] != at]
        for _, old, new in left:
            match = next((i for i, a in enumerate(arguments) if _size(a) == old and i not in claims), None)
            if match is None:
                return False
            claims[match] = [_Claim(new, False)]
    values = found.values.setdefault(seen.watch.number, {})
    changed = found.changed.setdefault(seen.watch.number, {})
    inferred = False
    for i, own in claims.items():
        a = arguments[i]
        spot, old = (seen.watch.code.source.numbers[a.expression], a.index), _size(a) or 0
        news = {claim.new for claim in own} | ({values[spot]} if spot in values else set())
        if isinstance(a.value, Free) and news == {old}:
            continue
        if len(news) == 1:
            (values[spot],) = news
            if news != {old}:
                changed[spot] = (old, own[0].new)
        elif not inferred and all(claim.inferred for claim in own):
            values[spot], inferred = -1, True
        else:
            found.failed.setdefault(
                seen.watch.module, f"{_shown(a.expression)} has to be several sizes at once"
            )
    return True


@dataclass(frozen=True)
class _Claim:
    """What an argument has to be worth for one call, and whether torch finds it out, were it -1."""

    new: int
    inferred: bool


def _of_list(
    arguments: Sequence[Argument], node: Node, at: int, resized: Sequence[Change], prediction: Prediction
) -> dict[int, _Claim]:
    """Return what a list of sizes among the arguments of a call claims of the arguments in the code."""
    if at >= len(node.args) or not isinstance(node.args[at], tuple):
        return {}
    sizes = _sizes(node, at, prediction)
    start = _run(arguments, sizes)
    if start is None:
        return {}
    news = {place[1]: new for place, _, new in resized if place[0] == at}
    inferred = node.op in INFERRED and -1 not in sizes
    return {start + i: _Claim(news.get(i, size), inferred) for i, size in enumerate(sizes)}


def _shown(part: ast.AST) -> str:
    return ast.unparse(part)[:80]


def _sizes(node: Node, at: int, prediction: Prediction) -> list[int]:
    """Return the sizes in a list among the arguments of a dense call; symbols as what they are for the example."""
    shape = prediction.before.get(node.name, ()) if SIZES.get(node.op) == at else ()
    given: Any = node.args[at]
    return [
        shape[i] if isinstance(size, Ref) and i < len(shape) else size if isinstance(size, int) else 0
        for i, size in enumerate(given)
    ]


def _size(argument: Argument) -> int | None:
    value = worth(argument.value)
    return value if type(value) is int else None


def _run(arguments: Sequence[Argument], sizes: list[int]) -> int | None:
    """Return where among the arguments these sizes stand one behind the other."""
    values = [_size(a) for a in arguments]
    for start in range(len(values) - len(sizes) + 1):
        if values[start : start + len(sizes)] == sizes:
            return start
    return None
