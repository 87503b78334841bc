"""Frozen dataclasses as plain data and back: the keys of recipes and their JSON schema follow from what Python takes.

`to_plain` writes what YAML and JSON can hold, `from_plain` reads it by the annotations of the class, and `schema`
tells an editor what may stand there. What a constructor accepts a file can say, and the constructor checks it.
"""

from __future__ import annotations

import inspect
import os
from collections import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from enum import Enum
from pathlib import PurePath
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from .importing import import_callable
from .kinds import (
    PATH,
    SCALARS,
    Kind,
    MisreadError,
    Schema,
    attempt,
    choice,
    listed,
    mapped,
    one_of,
    unsayable,
)
from .records import ANYTHING, Named, Record, called

__all__ = ["Form", "Names", "from_plain", "schema", "to_plain"]


@dataclass(frozen=True)
class Form:
    """How values that have no form of their own stand in a file: as values of another annotation, `kind`.

    `parse` makes the value of such a one, `plain` is its inverse. Both refuse what they cannot make with a ValueError,
    TypeError or SecateurError; `plain` refuses all that is of another type.
    """

    kind: Any
    parse: Callable[[Any], Any]
    plain: Callable[[Any], Any]


Names = Mapping[Any, Mapping[str, Callable[..., Any]] | Form]
"""What a file may say under an annotation: dataclasses and presets by name, or a form; by protocol, class or alias."""

NONE: Mapping[Any, Any] = MappingProxyType({})


def from_plain(
    kind: Any,
    data: Any,
    *,
    names: Names = NONE,
    given: Mapping[tuple[type, str], Any] = NONE,
    imported: Callable[[str], Any] = import_callable,
    at: str = "",
) -> Any:
    """Return the value of an annotation, `kind`, that plain data stand for.

    A dataclass is a mapping of its fields, or a text if it has a static or class method ``parse(text)``. Where a
    protocol or base class is asked for, a name of `names` or ``module:Class`` stands, alone or as the key ``name``
    among fields. Members of an enumeration stand by name (``first-convolution``), those of a StrEnum by value.
    Functions stand as ``module:name``, with keywords filled in as ``{call: module:name, ...}``. Fields in `given`,
    (class, field) -> value, are taken from there where the data lack them. Fields that are not compared, or whose
    metadata say ``{"plain": False}``, are refused. `imported` finds what ``module:name`` names, `at` is the path of the
    data in a larger file.

    Raises:
        RecipeError: data do not fit; one sentence for each fault, with the path of its key.

    >>> @dataclass(frozen=True)
    ... class Schedule:
    ...     steps: int = 10
    ...     factors: tuple[float, ...] = ()
    >>> from_plain(Schedule, {"factors": [0.1, 1]})
    Schedule(steps=10, factors=(0.1, 1))
    >>> from_plain(Schedule, {"stepz": 3})
    Traceback (most recent call last):
    secateur.ground.kinds.MisreadError: Recipe: unknown key 'stepz'; known: steps, factors. Did you mean 'steps'?
    """
    return _Reading(names, given, imported).of(kind).parse(data, at)


def to_plain(
    value: Any,
    *,
    kind: Any = None,
    names: Names = NONE,
    given: Collection[tuple[type, str]] | Mapping[tuple[type, str], Any] = (),
    otherwise: Callable[[Any], Any] | None = None,
) -> Any:
    """Return the plain data that stand for a value where `kind` is asked for, by default its own class.

    All fields are written, defaults too: a file says what was run. Fields in `given` are left out; if it is a mapping,
    as of `from_plain`, only where they hold the value that stands there. Where no file can say the value of a field,
    `otherwise` may say something else of it, which cannot be read.

    Raises:
        RecipeError: no file can say it.

    >>> from functools import partial
    >>> to_plain(partial(sorted, reverse=True), kind=Callable)
    {'call': 'builtins:sorted', 'reverse': True}
    """
    left_out = given if isinstance(given, Mapping) else dict.fromkeys(given, ANYTHING)
    writing = _Reading(names, left_out, import_callable, otherwise)
    try:
        return writing.of(type(value) if kind is None else kind).plain(value, "")
    except MisreadError:
        if otherwise is None:
            raise
        return otherwise(value)


def schema(kind: Any, *, names: Names = NONE, given: Collection[tuple[type, str]] = ()) -> Schema:
    """Return the JSON schema (draft 2020-12) of what `from_plain` reads, for editors; checks of classes are not in it.

    >>> schema(bool)
    {'$schema': 'https://json-schema.org/draft/2020-12/schema', 'type': 'boolean', '$defs': {}}
    """
    parts: dict[str, Schema] = {}

    def define(key: str, make: Callable[[], Schema]) -> Schema:
        if key not in parts:
            parts[key] = {}  # for what holds itself
            parts[key] = make()
        return {"$ref": f"#/$defs/{key}"}

    whole = _Reading(names, dict.fromkeys(given), import_callable).of(kind).schema(define)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole, "$defs": parts}


@dataclass(frozen=True)
class _Reading:
    """From annotations to what they mean in a file."""

    names: Names
    given: Mapping[tuple[type, str], Any]
    imported: Callable[[str], Any]
    otherwise: Callable[[Any], Any] | None = None

    def of(self, kind: Any) -> Kind:
        held, origin, args = self.names.get(kind), get_origin(kind) or kind, get_args(kind)
        if isinstance(held, Form):
            return _converted(held, self.of(held.kind))
        if origin is abc.Callable:
            return one_of([called(self.imported, self.anything()), self.named(kind, held or NONE)])
        if held is not None:
            return self.named(kind, held)
        if kind in SCALARS:
            return SCALARS[kind]
        if kind is Any or kind is object:
            return self.anything()
        if origin in (Union, UnionType):
            paths = any(map(_is_path, args))  # read a text as well
            return one_of([self.of(arg) for arg in args if not (paths and arg is str)])
        if origin is Literal:
            return choice([(_member(arg) if isinstance(arg, Enum) else arg, arg) for arg in args])
        if origin in (tuple, list, Sequence):
            endless = origin is not tuple or args[1:] == (...,) or kind is tuple
            entries = (args or (Any,))[:1] if endless else args
            return listed(list if origin is list else tuple, [self.of(entry) for entry in entries], endless)
        if origin in (dict, Mapping) and (args or (str,))[0] is str:
            return mapped(self.of(args[1] if args else Any))
        return self.of_class(kind)

    def of_class(self, kind: Any) -> Kind:
        if _is_path(kind):
            return PATH
        if not isinstance(kind, type):
            return unsayable(str(kind))
        if issubclass(kind, Enum):
            return choice([(_member(member), member) for member in kind])
        if is_dataclass(kind):
            return self.record(kind).as_kind()
        if getattr(kind, "_is_protocol", False) or inspect.isabstract(kind):
            return self.named(kind, NONE)
        return unsayable(kind.__name__)

    def record(self, cls: type[Any]) -> Record:
        return Record(cls, self.of, self.given, self.otherwise)

    def named(self, kind: Any, table: Mapping[str, Callable[..., Any]]) -> Kind:
        return Named(kind, table, self.record, self.imported).as_kind()

    def anything(self) -> Kind:
        """Return the kind of plain data as they are; other values are written by what they are."""
        tables = (table for table in self.names.values() if not isinstance(table, Form))
        every = {name: entry for table in tables for name, entry in table.items()}

        def plain(value: Any, at: str) -> Any:
            if is_dataclass(value) and not isinstance(value, type):
                return self.named(object, every).plain(value, at)
            if callable(value):
                return called(self.imported, self.anything()).plain(value, at)
            return (unsayable("object") if type(value) is object else self.of(type(value))).plain(value, at)

        return Kind(lambda data, at: data, plain, lambda define: {})


def _converted(form: Form, stored: Kind) -> Kind:
    return Kind(
        lambda data, at: attempt(form.parse, at, stored.parse(data, at)),
        lambda value, at: stored.plain(attempt(form.plain, at, value), at),
        stored.schema,
        stored.inside,
        stored.sayable,
    )


def _member(member: Enum) -> str:
    return str(member.value) if isinstance(member, str) else member.name.lower().replace("_", "-")


def _is_path(kind: Any) -> bool:
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and (issubclass(origin, PurePath) or origin is os.PathLike)
