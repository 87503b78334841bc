"""Functions and methods made anew from a tree of their source: only their bodies are compiled, nothing of it is run."""

from __future__ import annotations
import __future__

import ast
import functools
from collections.abc import Mapping
from types import CellType, CodeType, FunctionType
from typing import Any

from secateur.ground.errors import SurgeryError

__all__ = ["built", "in_place_of", "innermost", "is_its_source"]

_FUTURE = functools.reduce(
    int.__or__, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)


def built(
    function: FunctionType,
    tree: ast.FunctionDef,
    names: Mapping[str, Any],
    file: str,
    called: str | None = None,
) -> FunctionType:
    """Return a function like this one with the body of a tree: same globals, same closure, same defaults.

    `names` are values, or cells of values, that its code finds under these names before it looks into globals.
    Decorators, defaults and annotations of the tree are not evaluated. `called` is what tracebacks call the function.

    Raises:
        SurgeryError: the tree does not make such a function.
    """
    code = _compiled(function, tree, names, file)
    own = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    cells = {**own, **{n: v if isinstance(v, CellType) else CellType(v) for n, v in names.items()}}
    missing = set(code.co_freevars) - set(cells)
    if missing or code.co_argcount != function.__code__.co_argcount:
        raise SurgeryError(f"{function.__qualname__} is not what its source says")
    if called is not None:
        code = _called(code, called)
    made = FunctionType(
        code.replace(co_qualname=function.__code__.co_qualname),
        function.__globals__, function.__name__, function.__defaults__, tuple(cells[n] for n in code.co_freevars),
    )  # fmt: skip
    made.__kwdefaults__ = function.__kwdefaults__
    functools.update_wrapper(made, function)
    del made.__wrapped__  # type: ignore[attr-defined]
    return made


def is_its_source(function: FunctionType, tree: ast.FunctionDef) -> bool:
    """Whether a function is what its source says, as far as names and constants tell: files may have changed."""
    if any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        return True  # which is compiled in several ways
    return _alike(function.__code__, _compiled(function, tree, {}, function.__code__.co_filename))


def innermost(raw: Any) -> FunctionType | None:
    """Return the function that was written, behind descriptors and decorators; None if there is no such thing.

    >>> innermost(staticmethod(innermost)) is innermost
    True
    """
    match raw:
        case staticmethod() | classmethod():
            return innermost(raw.__func__)
        case property():
            return innermost(raw.fget)
        case FunctionType():
            inner = vars(raw).get("__wrapped__")
            return raw if inner is None else innermost(inner)
    return None


def in_place_of(raw: Any, old: FunctionType, new: FunctionType) -> Any:
    """Return what stands in a class or module, with another function inside: descriptors and decorators stay.

    Raises:
        SurgeryError: a decorator does not hold the function in a way that is known.
    """
    if raw is old:
        return new
    match raw:
        case staticmethod() | classmethod():
            return type(raw)(in_place_of(raw.__func__, old, new))
        case property():
            return property(in_place_of(raw.fget, old, new), raw.fset, raw.fdel, raw.__doc__)
        case FunctionType():
            inner = raw.__wrapped__  # type: ignore[attr-defined]
            made = in_place_of(inner, old, new)
            cells = [_holding(cell, inner, made) for cell in raw.__closure__ or ()]
            if not any(changed for _, changed in cells):
                raise SurgeryError(f"a decorator of {old.__qualname__} hides it")
            copy = FunctionType(
                raw.__code__,
                raw.__globals__,
                raw.__name__,
                raw.__defaults__,
                tuple(cell for cell, _ in cells),
            )
            copy.__kwdefaults__ = raw.__kwdefaults__
            functools.update_wrapper(copy, raw)
            vars(copy)["__wrapped__"] = made
            return copy
    raise SurgeryError(f"a decorator of {old.__qualname__} is not a function")


def _holding(cell: CellType, old: Any, new: Any) -> tuple[CellType, bool]:
    try:
        changed = cell.cell_contents is old
    except ValueError:  # an empty cell
        changed = False
    return (CellType(new), True) if changed else (cell, False)


def _compiled(function: FunctionType, tree: ast.FunctionDef, names: Mapping[str, Any], file: str) -> CodeType:
    """Compile a definition where its free names are those of a function around it, and its class has its name."""
    free = [*{**dict.fromkeys(function.__code__.co_freevars), **names}]
    body: ast.stmt = tree
    owner = function.__qualname__.rpartition(".")[0].rpartition(".")[2]
    if owner.isidentifier():  # private names of its methods begin with it
        body = ast.ClassDef(name=owner, bases=[], keywords=[], body=[tree], decorator_list=[])
        body = _typed(body)
    around = ast.parse("def around(): pass").body[0]
    assert isinstance(around, ast.FunctionDef)
    around.args.args = [ast.arg(arg=name) for name in free]
    outside = [name for name in (tree.name, owner) if name.isidentifier() and name not in free]
    around.body = [*([ast.Global(names=outside)] if outside else []), body]
    module = ast.fix_missing_locations(ast.Module(body=[around], type_ignores=[]))
    flags = function.__code__.co_flags & _FUTURE
    code = compile(module, file, "exec", flags=flags, dont_inherit=True)
    for name in ("around", *([owner] if owner.isidentifier() else []), tree.name):
        code = next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name)
    found: CodeType = code
    return found


def _typed(node: ast.ClassDef) -> ast.ClassDef:
    if "type_params" in node._fields:  # since Python 3.12
        node.type_params = []  # type: ignore[attr-defined]
    return node


def _called(code: CodeType, name: str) -> CodeType:
    consts = tuple(_called(c, name) if isinstance(c, CodeType) else c for c in code.co_consts)
    return code.replace(co_name=name, co_consts=consts)


def _alike(one: CodeType, other: CodeType) -> bool:
    # Not the instructions: the compiler chooses other ones for names that it saw imported.
    if (one.co_names, one.co_varnames, len(one.co_consts)) != (
        other.co_names,
        other.co_varnames,
        len(other.co_consts),
    ):
        return False
    return all(
        _alike(a, b) if isinstance(a, CodeType) and isinstance(b, CodeType) else type(a) is type(b) and a == b
        for a, b in zip(one.co_consts, other.co_consts, strict=True)
    )
