"""Which functions the code of a module reaches: its methods, and functions that they call by a name that is fixed."""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import CellType, FunctionType, ModuleType
from typing import Any

from torch import nn

from secateur.ground.errors import SurgeryError

from .build import built, in_place_of, innermost, is_its_source
from .source import Source

__all__ = ["Code", "Path", "Written", "asked_of_parts", "codes", "methods", "reads"]

Path = tuple[str, ...]
"""How code is reached: a method by its name, a function by that of the method and by its own, as they call it there."""

_SUPER = "super()."
_DEPTH = 4
_MOST = 80
_NOT_OURS = {*sys.stdlib_module_names, "torch", "numpy", "einops"}
_TORCH = {"multi_head_attention_forward", "_in_projection_packed", "_in_projection"}
"""The functions of torch that compute with sizes of their own."""


@dataclass(eq=False)
class Code:
    """A function that a module's code reaches, its source, and what it calls in turn."""

    path: Path
    raw: Any  # as it stands in its class or module: perhaps decorated, a static method, a property
    source: Source
    owner: type | None  # the class whose method it is
    calls: dict[str, Code] = field(
        default_factory=dict
    )  # by name in the code; not methods, which have paths of their own

    @cached_property
    def first(self) -> str:
        """The name of its first argument."""
        return next(iter(inspect.signature(self.source.function).parameters), "self")

    @cached_property
    def called(self) -> Mapping[ast.expr, str]:
        """The expressions in it that name what is called, where that is in `calls`."""
        found = {}
        for node in self.source.expressions:
            if isinstance(node, ast.Call) and (name := _name(node.func)) in self.calls:
                found[node.func] = name
        return found

    def own(self, node: ast.AST) -> str:
        """Return the name of the attribute that an expression reads from the module itself, or an empty text."""
        match node:
            case ast.Attribute(ast.Name(first), name) if self.owner is not None and first == self.first:
                private = name.startswith("__") and not name.endswith("__")
                return f"_{self.owner.__name__.lstrip('_')}{name}" if private else name
        return ""

    def identifier(self, name: str) -> str:
        """Return a name under which its code can find a function of its own in place of one that it calls."""
        if name.isidentifier():
            return name
        code, short = self.source.function.__code__, name.replace("()", "").replace(".", "_")
        while short in {*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars}:
            short += "_"
        return short

    def target(self, name: str) -> str:
        """Return the text by which its code calls such a function."""
        return self.identifier(name) + (f".__get__({self.first})" if name.startswith(_SUPER) else "")


def codes(cls: type[nn.Module], entries: Iterable[str] = ("forward",)) -> dict[Path, Code]:
    """Return the code that some methods of a class reach, as far as it has a source and is called by a fixed name.

    Raises:
        SurgeryError: one of the methods itself has no source.
    """
    found: dict[Path, Code] = {}
    for entry in entries:
        raw, owner = inspect.getattr_static(cls, entry, None), _owner(cls.__mro__, entry)
        code = _code((entry,), raw, owner) if owner is not nn.Module else None
        if code is None:
            raise SurgeryError(f"{cls.__qualname__} has no {entry} that is a function with a source")
        if code.path not in found:
            _add(cls, code, found)
    return found


def reads(cls: type[nn.Module], attribute: str) -> bool:
    """Whether the code of a class reads an attribute of the module, as far as can be seen; without a source: yes."""
    try:
        known = codes(cls).values()
    except SurgeryError:
        return True
    return any(code.own(node) == attribute for code in known for node in code.source.expressions)


def asked_of_parts(module: nn.Module, known: Iterable[Code]) -> dict[str, dict[str, None]]:
    """Return the methods that code calls of modules inside of its own, past their forward: by the path to them."""
    found: dict[str, dict[str, None]] = {}
    for code in known:
        for node in code.source.expressions:
            root, *path = _name(node).split(".") if isinstance(node, ast.Attribute) else [""]
            if root != code.first or code.owner is None or len(path) < 2:
                continue
            try:
                part = module.get_submodule(".".join(path[:-1]))
            except AttributeError:
                continue
            raw = inspect.getattr_static(type(part), path[-1], None)
            if innermost(raw) is not None and not hasattr(nn.Module, path[-1]) and path[-1] != "forward":
                found.setdefault(".".join(path[:-1]), {})[path[-1]] = None
    return found


@dataclass(frozen=True)
class Written:
    """What a piece of code becomes: a tree, the file that it seems to be in, and names that it finds besides."""

    tree: ast.FunctionDef
    file: str
    names: Mapping[str, Any] = field(default_factory=dict)


def methods(
    known: Mapping[Path, Code], written: Mapping[Path, Written], called: str | None = None
) -> dict[str, Any]:
    """Return the methods of a class, made anew from trees, that call functions that are made anew.

    `written` has those that reach a function of it by a name as well. `called` is what tracebacks call them all.

    Raises:
        SurgeryError: a tree does not make the function that it should.
    """

    def made(path: Path) -> Any:
        code, new = known[path], written[path]
        old = code.source.function
        inner = {code.identifier(n): made(c.path) for n, c in code.calls.items() if c.path in written}
        own = CellType()  # a function that hands itself on means what it is now
        names: dict[str, Any] = {**new.names, **inner}
        if code.owner is None and _global(old, old.__name__) is code.raw:  # pyright: ignore[reportArgumentType]
            names[old.__name__] = own
        own.cell_contents = in_place_of(code.raw, old, built(old, new.tree, names, new.file, called))  # pyright: ignore[reportArgumentType]
        return own.cell_contents

    return {path[0]: made(path) for path in written if len(path) == 1}


def _add(cls: type, code: Code, found: dict[Path, Code]) -> None:
    found[code.path] = code
    if len(code.path) > _DEPTH or len(found) > _MOST:
        return
    for name, raw, owner in _reached(cls, code):
        method = name.startswith("self.")
        path = (name.removeprefix("self."),) if method else (*code.path, name)
        if path in found:
            continue
        inner = _code(path, raw, owner)
        around = [found[path[:i]].source.function for i in range(1, len(path))]
        if inner is None or inner.source.function in around:
            continue
        if not method:
            code.calls[name] = inner
        _add(cls, inner, found)


def _code(path: Path, raw: Any, owner: type | None) -> Code | None:
    function = innermost(raw)
    source = None if function is None else _source(function)
    return None if source is None else Code(path, raw, source, owner)


@functools.lru_cache(maxsize=1024)  # which reads files, for every module of a class
def _source(function: FunctionType) -> Source | None:
    try:
        source = Source.of(function)
        return source if is_its_source(function, source.tree) else None
    except SurgeryError:
        return None


def _reached(cls: type, code: Code) -> Iterator[tuple[str, Any, type | None]]:
    """Yield what a piece of code calls by a name that says what it is: ``f``, ``m.f``, ``self.f``, ``super().f``."""
    function = code.source.function
    local = {*function.__code__.co_varnames, *function.__code__.co_cellvars}
    for node in code.source.expressions:
        own = code.own(node)
        if own and not hasattr(nn.Module, own):
            raw = inspect.getattr_static(cls, own, None)
            if innermost(raw) is not None:
                yield f"self.{own}", raw, _owner(cls.__mro__, own)
        if not isinstance(node, ast.Call):
            continue
        name = _name(node.func)
        root, *rest = name.split(".")
        if name.startswith(_SUPER):
            yield from _above(cls, code, name)
        elif name and root not in local and root != code.first:
            raw = _followed(_global(function, root), rest)  # pyright: ignore[reportArgumentType]
            if _is_ours(raw):
                yield name, raw, None


def _name(node: ast.expr) -> str:
    """Return the dotted name that an expression is, or an empty text."""
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(ast.Call(ast.Name("super"), [], []), attribute):
            return f"{_SUPER}{attribute}"
        case ast.Attribute(value, attribute):
            before = _name(value)
            return f"{before}.{attribute}" if before else ""
    return ""


def _above(cls: type, code: Code, name: str) -> Iterator[tuple[str, Any, type | None]]:
    method, order = name.removeprefix(_SUPER), cls.__mro__
    base = _owner(order[order.index(code.owner) + 1 :] if code.owner in order else (), method)
    if base is not None and base is not nn.Module and isinstance(vars(base)[method], FunctionType):
        yield name, vars(base)[method], base


def _owner(order: Iterable[type], name: str) -> type | None:
    return next((base for base in order if name in vars(base)), None)


def _global(function: FunctionType, name: str) -> Any:
    for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if free == name:
            try:
                return cell.cell_contents
            except ValueError:
                return None
    return function.__globals__.get(name, getattr(builtins, name, None))


def _followed(value: Any, names: list[str]) -> Any:
    for name in names:
        if not isinstance(value, ModuleType | type):
            return None
        value = inspect.getattr_static(value, name, None)
    return value


def _is_ours(raw: Any) -> bool:
    function = innermost(raw) if isinstance(raw, FunctionType) else None
    if function is None:
        return False
    package = (function.__module__ or "").partition(".")[0]
    return package not in _NOT_OURS or (package == "torch" and function.__name__ in _TORCH)
