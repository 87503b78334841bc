"""The source of a function as a tree with counted expressions, and its text with numbers where some of them stood."""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType
from typing import Any

from secateur.ground.errors import SurgeryError

__all__ = ["Source", "parsed"]

_SILENT = {"annotation", "returns", "type_comment", "type_params", "kind", "ctx"}
"""Parts of a tree that say nothing of what code does, or differ between versions of Python."""

_NOT_A_SIZE = {
    (ast.Call, "func"), (ast.Attribute, "value"), (ast.Subscript, "value"), (ast.Starred, "value"),
    (ast.If, "test"), (ast.While, "test"), (ast.IfExp, "test"), (ast.Assert, "test"), (ast.Assert, "msg"),
    (ast.Compare, "left"), (ast.Compare, "comparators"), (ast.BoolOp, "values"), (ast.Expr, "value"),
    (ast.For, "iter"), (ast.comprehension, "iter"), (ast.comprehension, "ifs"), (ast.Raise, "exc"),
    (ast.Raise, "cause"), (ast.withitem, "context_expr"), (ast.Dict, "keys"),
}  # fmt: skip
"""Where an expression stands for something else: what is called, looked into, asked or looped over."""

_SIZES = (ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.BinOp, ast.Call)


@dataclass(frozen=True, eq=False)
class Source:
    """A function and its text. Expressions are counted in the order of the tree, so that layout does not matter."""

    function: FunctionType
    text: str
    tree: ast.FunctionDef

    @staticmethod
    def of(function: FunctionType) -> Source:
        """Read the source of a function, as the interpreter knows it.

        Raises:
            SurgeryError: there is none, or it is not the definition of this function.
        """
        name = function.__qualname__
        try:
            text = "".join(inspect.getsourcelines(function)[0])
            tree = parsed(text)
        except (OSError, TypeError, SyntaxError, IndexError) as error:
            raise SurgeryError(f"the source of {name} cannot be had: {error}") from None
        if tree.name != function.__code__.co_name:
            raise SurgeryError(f"the source of {name} is the definition of {tree.name}")
        return Source(function, text, tree)

    @cached_property
    def _parts(self) -> list[tuple[ast.expr, ast.AST | None, str]]:
        return [part for statement in self.tree.body for part in _inside(statement, None, "")]

    @cached_property
    def expressions(self) -> tuple[ast.expr, ...]:
        """All expressions of the body; their place here is their number."""
        return tuple(node for node, _, _ in self._parts)

    @cached_property
    def numbers(self) -> dict[ast.expr, int]:
        """The number of each expression."""
        return {node: i for i, node in enumerate(self.expressions)}

    @cached_property
    def sizes(self) -> frozenset[int]:
        """The numbers of those expressions that an integer may take the place of."""
        return frozenset(
            number
            for number, (node, parent, field) in enumerate(self._parts)
            if isinstance(node, _SIZES)
            and (type(parent), field) not in _NOT_A_SIZE
            and _is_read(node, parent)
        )

    @cached_property
    def digest(self) -> str:
        """A hash over what the code does: not over its layout, its comments, its documentation or its types."""
        body = self.tree.body
        documented = bool(body) and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
        parts = [self.tree.name, self.tree.args, self.tree.decorator_list, body[1:] if documented else body]
        return hashlib.sha256(_written(parts).encode()).hexdigest()

    def with_numbers(self, numbers: Mapping[int, int], calls: Mapping[ast.expr, str]) -> str:
        """Return the text with integers in place of the expressions of these numbers, and `calls` of other functions.

        Raises:
            SurgeryError: no integer may stand there, or two of the places overlap.
        """
        edits = {node: text for node, text in calls.items()}
        for number, value in numbers.items():
            if number not in self.sizes or value < -1:
                raise SurgeryError(f"{self.function.__qualname__} has no size as its expression {number}")
            edits[self.expressions[number]] = str(value)
        lines = [line.encode() for line in self.text.splitlines(keepends=True)]
        last = (len(lines) + 1, 0)
        for node in sorted(edits, key=_start, reverse=True):
            end = (node.end_lineno or 0, node.end_col_offset or 0)
            if node.lineno != end[0] or end > last:
                raise SurgeryError(f"places in {self.function.__qualname__} where sizes change overlap")
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = line[: node.col_offset] + edits[node].encode() + line[end[1] :]
            last = _start(node)
        return b"".join(lines).decode()

    def changed(self, text: str, mark: str) -> tuple[ast.FunctionDef, str]:
        """Return the tree of a changed text of this function, and the name of the file that it seems to be in.

        The interpreter finds the text there, lines numbered as in the true file, so that tracebacks and debuggers show
        it, and so that it has a source again.

        Raises:
            SurgeryError: the text is no definition of a function.
        """
        code = self.function.__code__
        try:
            tree = ast.increment_lineno(parsed(text), code.co_firstlineno - 1)
        except SyntaxError as error:
            raise SurgeryError(
                f"{self.function.__qualname__} cannot be written with other sizes: {error}"
            ) from None
        file = f"{code.co_filename.partition(' (resized ')[0]} (resized {mark})"
        lines = ["\n"] * (code.co_firstlineno - 1) + text.splitlines(keepends=True)
        linecache.cache[file] = (sum(map(len, lines)), None, lines, file)
        return tree, file


def parsed(text: str) -> ast.FunctionDef:
    """Return the definition of a function that a text consists of, indented or not; the first line is line 1.

    Raises:
        SyntaxError: it is no definition of a function.
    """
    indented = text[:1].isspace()
    found: Any = ast.parse(f"if 1:\n{text}" if indented else text).body[0]
    if indented:
        found = ast.increment_lineno(found.body[0], -1)
    if not isinstance(found, ast.FunctionDef):
        raise SyntaxError("no definition of a function")
    return found


def _inside(
    node: ast.AST, parent: ast.AST | None, field: str
) -> Iterator[tuple[ast.expr, ast.AST | None, str]]:
    """Yield the expressions in a part of a tree, each with what it is a part of; nothing inside of texts."""
    if isinstance(node, ast.expr):
        yield node, parent, field
    if isinstance(node, ast.JoinedStr):
        return
    for name, value in ast.iter_fields(node):
        if name in _SILENT or name == "decorator_list":
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _inside(child, node, name)


def _is_read(node: ast.expr, parent: ast.AST | None) -> bool:
    if isinstance(node, ast.Constant):
        stands = type(node.value) is int
    elif isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
        stands = isinstance(node.ctx, ast.Load)
    else:
        stands = True
    negated = isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.Not)
    return stands and not negated and node.lineno == node.end_lineno


def _start(node: ast.expr) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _written(part: Any) -> str:
    if isinstance(part, ast.JoinedStr):  # some versions of Python see empty texts in between
        part = ast.JoinedStr([v for v in part.values if not (isinstance(v, ast.Constant) and v.value == "")])
    if isinstance(part, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(part) if name not in _SILENT]
        said = (f"{name}={_written(value)}" for name, value in fields if value not in (None, []))
        return f"{type(part).__name__}({','.join(said)})"
    if isinstance(part, list):
        return f"[{','.join(map(_written, part))}]"
    return repr(part)
