"""Where in the code a size is said: which expressions become integers so that the arguments of calls come out right."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .wanted import Evidence
from .watch import Record
from .worth import Free, Value, worth

__all__ = ["Places", "Reader"]

Places = dict[tuple[int, int], int]
"""By watch and number of an expression: the integer that is to stand there."""

_DEPTH = 12


@dataclass(frozen=True, eq=False)
class Reader:
    """The code of a model as it was watched: in the dense one, and in the smaller one with the right numbers put in."""

    dense: Mapping[int, Evidence]  # by watch
    smaller: Mapping[int, Record]
    pairs: frozenset[tuple[int, int]] = frozenset()  # what single sizes were and are to be

    def place(
        self, at: Evidence, part: ast.expr, index: int | None, own: Any, want: Any, depth: int = 0
    ) -> Places | None:
        """Return integers that make an expression (an element of it) worth what is wanted, not what it is on its own.

        None if there are none: the code computes the size in a way that is not understood.
        """
        if depth > _DEPTH:
            return None
        if index is not None:
            return self._element(at, part, index, own, want, depth + 1)
        if type(want) is not int:
            return self._as_before(at, part, depth + 1)
        if isinstance(part, ast.BinOp) and (found := self._operand(at, part, want, depth + 1, known=True)):
            return found
        number = at.watch.code.source.numbers.get(part, -1)
        if number in at.watch.code.source.sizes and not self._varies(at, part):
            return {(at.watch.number, number): want}
        match part:
            case ast.UnaryOp(ast.USub(), operand):
                return self.place(at, operand, None, -own, -want, depth + 1)
            case ast.NamedExpr(_, value):
                return self.place(at, value, None, own, want, depth + 1)
            case ast.IfExp(_, body, orelse):
                sides = [(at, b, None) for b in (body, orelse) if self._own(at, b) == own]
                return self._everywhere(sides, own, want, depth)
            case ast.BinOp():
                return self._operand(at, part, want, depth + 1, known=False)
            case ast.Name(name):
                return self._everywhere(self.definitions(at, name, None, own), own, want, depth)
        return None

    def definitions(
        self, at: Evidence, name: str, index: int | None, own: Any
    ) -> Iterator[tuple[Evidence, ast.expr, int | None]]:
        """Yield what a variable was given, where it is worth this: in assignments, or by who calls the function."""
        for target, value in _assignments(at.watch.code.source.tree):
            match target:
                case ast.Name(n) if n == name and self._own(at, value, index) == own:
                    yield at, value, index
                case ast.Tuple(elements) | ast.List(elements) if index is None:
                    for i, element in enumerate(elements):
                        if isinstance(element, ast.Starred):
                            break
                        if (
                            isinstance(element, ast.Name)
                            and element.id == name
                            and self._own(at, value, i) == own
                        ):
                            yield at, value, i
        for caller, value in self._given(at, name):
            if self._own(caller, value, index) == own:
                yield caller, value, index

    def _given(self, at: Evidence, name: str) -> Iterator[tuple[Evidence, ast.expr]]:
        """Yield what callers give for a parameter."""
        arguments = at.watch.code.source.tree.args
        order = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
        if name not in [*order, *(a.arg for a in arguments.kwonlyargs)]:
            return
        path = at.watch.code.path
        for caller in self.dense.values():
            if caller.watch.module != at.watch.module:
                continue
            code = caller.watch.code
            for node in code.source.expressions:
                if not isinstance(node, ast.Call):
                    continue
                bound = path == (code.own(node.func),)
                inner = code.path == path[:-1] and code.called.get(node.func) == path[-1]
                if bound or inner:
                    skip = 1 if bound or path[-1].startswith("super()") else 0
                    given = dict(zip(order[skip:], node.args, strict=False))
                    given |= {k.arg: k.value for k in node.keywords if k.arg is not None}
                    if name in given and not any(isinstance(a, ast.Starred) for a in node.args):
                        yield caller, given[name]

    def _own(self, at: Evidence, part: ast.expr, index: int | None = None) -> Any:
        """Return what an expression is worth in the smaller model; None if that is not one value."""
        if isinstance(part, ast.Constant):
            return part.value
        values = self.smaller[at.watch.number].seen.get(at.watch.code.source.numbers.get(part, -1), [])
        value: Value | None = values[0] if len(values) == 1 else None
        if index is None:
            return worth(value) if not isinstance(value, tuple) else value
        return value[index] if isinstance(value, tuple) and index < len(value) else None

    def _varies(self, at: Evidence, part: ast.expr) -> bool:
        value = at.value(part)
        return value is None or isinstance(value, Free)

    def _everywhere(
        self, places: Iterable[tuple[Evidence, ast.expr, int | None]], own: Any, want: Any, depth: int
    ) -> Places | None:
        """Put the same size into all of some expressions, of which there is one at least."""
        found: Places = {}
        for at, part, index in places:
            more = self.place(at, part, index, own, want, depth + 1)
            if more is None or any(found.get(key, new) != new for key, new in more.items()):
                return None
            found |= more
        return found or None

    def _element(
        self, at: Evidence, part: ast.expr, index: int, own: Any, want: Any, depth: int
    ) -> Places | None:
        match part:
            case ast.Tuple(elements) | ast.List(elements):
                for element in elements:
                    if isinstance(element, ast.Starred):
                        inside = self._own(at, element.value)
                        length = len(inside) if isinstance(inside, tuple) else None
                        if length is None:
                            return None
                        if index < length:
                            return self.place(at, element.value, index, own, want, depth)
                        index -= length
                    elif index == 0:
                        return self.place(at, element, None, own, want, depth)
                    else:
                        index -= 1
            case ast.BinOp(left, ast.Add(), right):
                first = self._own(at, left)
                if isinstance(first, tuple):
                    here = index < len(first)
                    return self.place(
                        at, left if here else right, index if here else index - len(first), own, want, depth
                    )
            case ast.Call(ast.Name("tuple" | "list") | ast.Attribute(_, "Size"), [inner], []):
                return self.place(at, inner, index, own, want, depth)
            case ast.Name(name):
                return self._everywhere(self.definitions(at, name, index, own), own, want, depth)
        return None

    def _operand(self, at: Evidence, part: ast.BinOp, want: int, depth: int, *, known: bool) -> Places | None:
        """Change one side of an operation, if `known` one that is a size by itself, so that the result is as wanted.

        The other side may follow the sizes of inputs. What was something else in the dense model comes first.
        """
        left, right = self._own(at, part.left), self._own(at, part.right)
        if type(left) is not int or type(right) is not int:
            return None
        news = _inverse(part.op, left, right, want)
        options = [(side, own, new) for side, own, new in zip((part.left, part.right), (left, right), news)]
        options.sort(key=lambda option: worth(at.value(option[0])) != option[2])
        for side, own, new in options:
            if new is None or new == own or (known and (own, new) not in self.pairs):
                continue
            found = self.place(at, side, None, own, new, depth)
            if found is not None:
                return found
        return None

    def _as_before(self, at: Evidence, part: ast.expr, depth: int) -> Places | None:
        """Let a number that is computed from sizes be computed from those of the dense model."""
        found: Places = {}
        waiting: list[ast.AST] = [part]
        while waiting and depth <= _DEPTH:
            node = waiting.pop()
            if isinstance(node, ast.expr) and not isinstance(node, ast.Constant):
                was, own = at.value(node), self._own(at, node)
                if type(was) is int and own != was:
                    if (more := self.place(at, node, None, own, was, depth)) is None:
                        return None
                    found |= more
                    continue
                if isinstance(node, ast.Name) and was is not None and own != worth(was):
                    for where, value, index in self.definitions(at, node.id, None, own):
                        more = self._as_before(where, value, depth + 1) if index is None else None
                        if more is None:
                            return None
                        found |= more
                    continue
            waiting += ast.iter_child_nodes(node)
        return found or None


def _inverse(op: ast.operator, left: int, right: int, want: int) -> tuple[int | None, int | None]:
    """Return what the left or the right side has to be, the other one left as it is, for a result."""
    match op:
        case ast.Add():
            return want - right, want - left
        case ast.Sub():
            return want + right, left - want
        case ast.Mult():
            return (
                want // right if right and want % right == 0 else None,
                want // left if left and want % left == 0 else None,
            )
        case ast.FloorDiv():
            return want * right, left // want if want and left % want == 0 else None
    return None, None


def _assignments(tree: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets, value):
                for target in targets:
                    yield target, value
            case ast.AnnAssign(target, _, ast.expr() as value) | ast.NamedExpr(target, value):
                yield target, value
