"""Watching a model's own code run: which expression makes which call, and what the expressions around it are worth."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from secateur.ground.errors import SurgeryError

from .callees import Code, Path, Written, asked_of_parts, codes, methods
from .names import first_names
from .resized import subclass
from .worth import Value, plain

__all__ = ["Record", "Spot", "Watch", "install", "places", "watches"]

_FILE = "secateur-watch-{}"
_FRAME = re.compile(r'File "secateur-watch-(?P<watch>\d+)", line (?P<line>\d+)')
_PROBE = "_secateur_probe"
_KINDS = (
    ast.Name,
    ast.Attribute,
    ast.Subscript,
    ast.BinOp,
    ast.UnaryOp,
    ast.Call,
    ast.IfExp,
    ast.Tuple,
    ast.List,
)

Spot = tuple[int, int | None]
"""The number of an expression, and which element of it where it is a sequence."""


@dataclass(eq=False)
class Record:
    """What was seen while code ran, and values that it was handed in place of its own."""

    wanted: Mapping[Spot, Value] = field(default_factory=dict)
    seen: dict[int, list[Value]] = field(default_factory=dict)  # by expression: its distinct values
    # Where its own was another: (own, wanted).
    wrong: dict[Spot, set[tuple[Value, Value]]] = field(default_factory=dict)

    def look(self, number: int, value: Any) -> Any:
        """Note the value of an expression, and return it: or the one that is wanted in its place."""
        found = plain(value)
        if found is None:
            return value
        known = self.seen.setdefault(number, [])
        if found not in known:
            known.append(found)
        parts = found if isinstance(found, tuple) else ()
        for index, have in ((None, found), *enumerate(parts)):
            want = self.wanted.get((number, index))
            if want is not None and want != have:
                self.wrong.setdefault((number, index), set()).add((have, want))
                value = want if index is None else type(value)((*value[:index], want, *value[index + 1 :]))
        return value


@dataclass(eq=False)
class Watch:
    """One function of the code of one module, in a form that tells what it does."""

    module: str  # its path
    callers: frozenset[
        str
    ]  # modules whose forward it is a part of: this one, or one around it that calls its method
    code: Code
    number: int
    tree: ast.FunctionDef
    lines: tuple[ast.AST, ...]  # what is on each line of the tree: every part of the code has one of its own

    @staticmethod
    def on(module: str, callers: frozenset[str], code: Code, number: int) -> Watch:
        """Watch a function."""
        tree = copy.deepcopy(code.source.tree)
        origin = dict(zip(ast.walk(tree), ast.walk(code.source.tree), strict=True))
        lines = [node for node in origin if "lineno" in node._attributes]
        for i, node in enumerate(lines, start=1):
            place: Any = node
            place.lineno = place.end_lineno = i
            place.col_offset = place.end_col_offset = 0
        tree = _Probing(code, origin).visit(tree)
        # Python says of a call of a method that it is where the method's name stands.
        calls: dict[ast.AST, ast.AST] = {
            node.func: node for node in ast.walk(code.source.tree) if isinstance(node, ast.Call)
        }
        return Watch(
            module, callers, code, number, tree, tuple(calls.get(origin[n], origin[n]) for n in lines)
        )


def watches(model: nn.Module, modules: Iterable[str]) -> tuple[Watch, ...]:
    """Return watches on all code that the forwards of some modules reach; modules without a source have none.

    Modules go by the first of their names.
    """
    first = first_names(model)
    entries: dict[str, dict[str, None]] = {}
    callers: dict[str, set[str]] = {}
    for module in modules:
        waiting = [(module, {"forward": None})]
        while waiting:
            path, names = waiting.pop()
            if (
                module not in callers.setdefault(path, set())
                or not names.keys() <= entries.get(path, {}).keys()
            ):
                callers[path].add(module)
                entries[path] = {**entries.get(path, {}), **names}
                target = model.get_submodule(path)
                for part, asked in asked_of_parts(target, _codes(target, names).values()).items():
                    waiting.append((first[f"{path}.{part}" if path else part], asked))
    found: list[Watch] = []
    for path, names in entries.items():
        code = _codes(model.get_submodule(path), names)
        found += [
            Watch.on(path, frozenset(callers[path]), c, len(found) + i) for i, c in enumerate(code.values())
        ]
    return tuple(found)


def _codes(module: nn.Module, names: Iterable[str]) -> dict[Path, Code]:
    """Return the code of a module, but for methods that the module has as attributes of its own."""
    try:
        known = codes(type(module), names)
        subclass(type(module), {})
    except (SurgeryError, TypeError):  # some metaclasses want more
        return {}
    return {path: code for path, code in known.items() if path[0] not in vars(module)}


def install(
    model: nn.Module, watching: Iterable[Watch], wanted: Mapping[int, Mapping[Spot, Value]] | None = None
) -> dict[int, Record]:
    """Make the modules of a model run the code that is watched; `model` is a copy that nobody else uses.

    Return by watch what will be seen. Expressions get the values that are `wanted`, by watch, in place of their own.
    """
    records: dict[int, Record] = {}
    by_module: dict[str, list[Watch]] = {}
    for watch in watching:
        records[watch.number] = Record((wanted or {}).get(watch.number, {}))
        by_module.setdefault(watch.module, []).append(watch)
    for module, own in by_module.items():
        target = model.get_submodule(module)
        known = {w.code.path: w.code for w in own}
        written = {
            w.code.path: Written(w.tree, _FILE.format(w.number), {_PROBE: records[w.number].look})
            for w in own
        }
        target.__class__ = subclass(type(target), methods(known, written, "forward"))
    return records


def places(stack_trace: str | None) -> Iterator[tuple[int, int]]:
    """Yield the number of the watch and the line in it of all watched calls in a stack, innermost first."""
    for match in reversed(list(_FRAME.finditer(stack_trace or ""))):
        yield int(match["watch"]), int(match["line"]) - 1


class _Probing(ast.NodeTransformer):
    """Puts a probe around every expression that may be a number, and calls functions that are watched."""

    def __init__(self, code: Code, origin: Mapping[ast.AST, ast.AST]) -> None:
        self.code = code
        self.origin = origin

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        node.value = self._inside(node.value)
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.pattern):
            return node
        return self._told(node) if isinstance(node, ast.expr) else super().generic_visit(node)

    def _told(self, node: ast.expr) -> ast.expr:
        number = self.code.source.numbers.get(self.origin[node])  # type: ignore[call-overload]
        made = self._inside(node)
        if number is None or not _may_be_number(node):
            return made
        probe = ast.Call(ast.Name(_PROBE, ast.Load()), [ast.Constant(number), made], [])
        for part in (probe, probe.func, probe.args[0]):
            ast.copy_location(part, node)
        return probe

    def _inside(self, node: ast.expr) -> ast.expr:
        """Put probes into an expression, not around it."""
        match node:
            case ast.JoinedStr():
                pass
            case ast.Call(func):
                name = self.code.called.get(self.origin[func])  # type: ignore[call-overload]
                node.func = self._inside(func) if name is None else self._new(func, name)
                node.args = [self.visit(a) for a in node.args]
                node.keywords = [self.visit(k) for k in node.keywords]
            case ast.Attribute():
                node.value = self._inside(node.value)
            case _:
                super().generic_visit(node)
        return node

    def _new(self, func: ast.expr, name: str) -> ast.expr:
        new = ast.parse(self.code.target(name), mode="eval").body
        for part in ast.walk(new):
            if "lineno" in part._attributes:
                ast.copy_location(part, func)
        return new


def _may_be_number(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value):
            return type(value) in (int, float)
        case ast.Call(ast.Name("super" | "locals")):
            return False
        case ast.Tuple(elements):
            return isinstance(node.ctx, ast.Load) and not any(isinstance(e, ast.Slice) for e in elements)
        case _:
            return isinstance(node, _KINDS) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
