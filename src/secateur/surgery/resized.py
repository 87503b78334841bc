"""Classes whose own code has other numbers in it: subclasses that are made anew wherever they are unpickled.

Nothing that a file says is ever executed. What is compiled is the source of the class that is there, as inspect finds
it, its hash compared; from a plan come only integers, and only to places where the code has an expression that may be
a size: an integer, a name, an attribute, arithmetic of them. A number or attribute there must have the value that the
plan says it had.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from torch import nn

from secateur.ground.errors import SurgeryError

from .callees import Code, Path, Written, codes, methods
from .plan import Function, RewriteCode
from .source import Source

__all__ = ["Resized", "class_for", "resized", "subclass"]

T = TypeVar("T")

Functions = tuple[Function, ...]


class Resized:
    """A module whose class has other numbers in its code; goes before that class among the bases."""

    _resized: ClassVar[tuple[type, tuple[Functions, ...]]]

    def __init_subclass__(cls, **options: Any) -> None:
        """Not for the classes behind: some keep a register of what is derived from them."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle and copy as the original class and its new numbers."""
        cls = type(self)
        reduced: Any = super().__reduce_ex__(protocol)
        if "_resized" not in vars(cls):  # derived from such a class in turn, by a parametrization say
            return reduced
        origin, rewritten = cls._resized
        make, args, *others = reduced
        return (_made, (origin, rewritten, make, tuple(origin if a is cls else a for a in args)), *others)


def _made(origin: type, rewritten: tuple[Functions, ...], make: Any, args: tuple[Any, ...]) -> Any:
    """Make an empty module of the class that an original one had become.

    Raises:
        SurgeryError: the original class has other code now.
    """
    module = make(*args)
    module.__class__ = functools.reduce(resized, rewritten, origin)
    return module


def subclass(cls: type[T], namespace: Mapping[str, Any]) -> type[T]:
    """Return a class that is this one but for some methods, and looks like it to people."""
    own = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        **namespace,
    }
    bases = (cls,) if issubclass(cls, Resized) else (Resized, cls)
    made: type[T] = type(cls)(cls.__name__, bases, own)  # type: ignore[misc]
    return made


def class_for(module: nn.Module, edit: RewriteCode) -> type[nn.Module]:
    """Return the class that an edit gives a module.

    Raises:
        SurgeryError: the code of its class is another than when the plan was made.
    """
    where = f"{edit.module or 'the model'} ({type(module).__name__})"
    for entry in {function.path[0] for function in edit.functions} & vars(module).keys():
        raise SurgeryError(f"{where} has a {entry} of its own, not that of its class")
    try:
        made: type[nn.Module] = resized(type(module), edit.functions)  # type: ignore[arg-type]
    except SurgeryError as error:
        raise SurgeryError(f"the code of {where} cannot get other sizes: {error}") from None
    known = codes(type(module), dict.fromkeys(function.path[0] for function in edit.functions))
    for function in edit.functions:
        code = known[function.path]
        for literal in function.literals:
            node = code.source.expressions[literal.place]
            value = vars(module).get(code.own(node), literal.old)
            if type(value) is int and value != literal.old:
                raise SurgeryError(f"{where} has a {code.own(node)} of {value}, not of {literal.old}")
    return made


@functools.cache  # so that copies of a module are of one class
def resized(cls: type[nn.Module], functions: Functions) -> type[nn.Module]:
    """Return a subclass with other numbers in its code; the same one whenever it is asked for.

    Raises:
        SurgeryError: the code of the class is another than when the plan was made, or has no sizes in these places.
    """
    known = codes(cls, dict.fromkeys(function.path[0] for function in functions))
    paths = {function.path for function in functions}
    written: dict[Path, Written] = {}
    for function in functions:
        code = known.get(function.path)
        if code is None or (len(function.path) > 1 and function.path[:-1] not in paths):
            raise SurgeryError(f"it calls no {'.'.join(function.path)} that has a source")
        if code.source.digest != function.digest:
            raise SurgeryError(
                f"{code.source.function.__qualname__} is another function than when the plan was made, of another "
                "version of torch or of the model's library"
            )
        written[function.path] = _rewritten(code, function, paths)
    origin, before = vars(cls).get("_resized", (cls, ()))
    try:
        return subclass(cls, {**methods(known, written), "_resized": (origin, (*before, functions))})
    except TypeError as error:  # some metaclasses want more
        raise SurgeryError(f"no class can be derived from {cls.__qualname__}: {error}") from None


def _rewritten(code: Code, function: Function, paths: set[Path]) -> Written:
    source = code.source
    for literal in function.literals:
        _check(source, literal.place, literal.old)
    calls = {node: code.target(name) for node, name in code.called.items() if (*code.path, name) in paths}
    text = source.with_numbers({literal.place: literal.new for literal in function.literals}, calls)
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Written(*source.changed(text, f"{source.function.__qualname__} {mark}"))


def _check(source: Source, place: int, old: int) -> None:
    node = source.expressions[place] if place < len(source.expressions) else None
    value: Any = old
    if isinstance(node, ast.Constant):
        value = node.value
    elif isinstance(node, ast.Name) and node.id not in source.function.__code__.co_varnames:
        value = source.function.__globals__.get(node.id, old)  # pyright: ignore[reportAttributeAccessIssue]
    if value != old or type(value) is not int:
        raise SurgeryError(f"expression {place} of {source.function.__qualname__} is {value!r}, not {old}")
