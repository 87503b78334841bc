"""What dataclasses, names and functions mean in a file; `kinds` holds the simple ones."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import cache, partial
from typing import Any, get_type_hints

from .errors import SecateurError, did_you_mean
from .importing import name_of
from .kinds import (
    Define,
    Kind,
    MisreadError,
    Schema,
    attempt,
    inner,
    read_all,
    shape_error,
    unknown_key,
    where,
)

__all__ = ["ANYTHING", "Named", "Record", "called"]

ANY_NAME: Schema = {"type": "string", "pattern": ":"}
ANYTHING = object()
"""Stands for a given value where all values are left out."""


@dataclass(frozen=True)
class Record:
    """A dataclass: a mapping of its fields, or a text where the class has a static or class method `parse`."""

    cls: Any
    of: Callable[[Any], Kind]
    given: Mapping[tuple[type, str], Any]
    otherwise: Callable[[Any], Any] | None

    @property
    def kinds(self) -> dict[str, Kind]:
        """The fields that a file may name."""
        hints = _hints(self.cls)
        own = (f for f in _options(self.cls) if f.compare and f.metadata.get("plain", True))
        return {f.name: self.of(hints[f.name]) for f in own}

    @property
    def needed(self) -> list[str]:
        """The fields without a default that the program does not give."""
        own = (f.name for f in _options(self.cls) if f.default is f.default_factory is MISSING)
        return [name for name in own if (self.cls, name) not in self.given]

    def as_kind(self) -> Kind:
        """Return what the class means where it is asked for."""
        text = inspect.getattr_static(self.cls, "parse", None)
        parse = self.cls.parse if isinstance(text, staticmethod | classmethod) else None

        def plain(value: Any, at: str) -> Any:
            if parse and type(value) is self.cls:
                try:
                    if parse(str(value)) == value:
                        return str(value)
                except (SecateurError, ValueError, TypeError):
                    pass  # the text says less
            return self.written(value, at)

        def schema(define: Define) -> Schema:
            record = define(_key(self.cls), lambda: self.schema(define, needed=self.needed))
            return {"anyOf": [{"type": "string"}, record]} if parse else record

        def read(data: Any, at: str) -> Any:
            if parse and isinstance(data, str):
                return attempt(parse, at, data)
            if parse and not isinstance(data, Mapping):
                raise shape_error(at, "text or a mapping", data)
            return self.made(data, at)

        return Kind(read, plain, schema, lambda: self.kinds)

    def made(self, data: Any, at: str) -> Any:
        """Return an instance; the class's own checks speak with the path in front."""
        given = {name: value for (cls, name), value in self.given.items() if cls is self.cls}
        return attempt(self.cls, at, **given | self.read(data, at, self.needed))

    def read(self, data: Any, at: str, needed: Sequence[str] = ()) -> dict[str, Any]:
        """Return the values of the fields that data name."""
        if not isinstance(data, Mapping):
            raise shape_error(at, "a mapping", data)
        kinds = self.kinds
        faults = [unknown_key(at, key, kinds) for key in data if key not in kinds]
        faults += [f"the key {inner(at, name)!r} is missing." for name in needed if name not in data]
        names = [key for key in data if key in kinds]
        return dict(zip(names, read_all(((kinds[k], data[k], inner(at, k)) for k in names), faults)))

    def written(self, value: Any, at: str) -> dict[str, Any]:
        """Return all fields but those that have a given value."""
        if type(value) is not self.cls:
            raise shape_error(at, f"a {self.cls.__name__}", value)
        data = {}
        for name, kind in self.kinds.items():
            own, given = getattr(value, name), self.given.get((self.cls, name), MISSING)
            if given is ANYTHING or given is own:
                continue
            try:
                data[name] = kind.plain(own, inner(at, name))
            except MisreadError:
                if self.otherwise is None:
                    raise
                data[name] = self.otherwise(own)
        return data

    def schema(self, define: Define, name: str | None = None, needed: Sequence[str] = ()) -> Schema:
        """Return the schema of an object, perhaps with the `name` that stands for the class."""
        properties: dict[str, Schema] = {} if name is None else {"name": {"const": name}}
        for key, kind in self.kinds.items():
            if kind.sayable:
                properties[key] = kind.schema(define) | self._default(key, kind)
        return {
            "type": "object",
            **_about(self.cls),
            "properties": properties,
            "required": [key for key in ("name", *needed) if key in properties],
            "additionalProperties": False,
        }

    def _default(self, name: str, kind: Kind) -> Schema:
        field = next(f for f in _options(self.cls) if f.name == name)
        if field.default is field.default_factory is MISSING:
            return {}
        value = field.default if field.default_factory is MISSING else field.default_factory()
        try:
            return {"default": kind.plain(value, "")}
        except MisreadError:
            return {}


@dataclass(frozen=True)
class Named:
    """A protocol or a base class: one of a table of names, or ``module:Class``, perhaps with fields.

    A name stands for a dataclass, or for a preset, a callable without arguments whose result further keys change. An
    imported name that is no class, a function for instance, is the value itself.
    """

    kind: Any
    table: Mapping[str, Callable[..., Any]]
    of: Callable[[type[Any]], Record]
    imported: Callable[[str], Any]

    def as_kind(self) -> Kind:
        """Return what the protocol means where it is asked for."""
        return Kind(
            self.read, self.written, lambda define: define(_key(self.kind), lambda: self.schema(define))
        )

    def read(self, data: Any, at: str) -> Any:
        """Return what a name stands for."""
        if not isinstance(data, str | Mapping):
            raise shape_error(at, "a name or a mapping", data)
        data = {"name": data} if isinstance(data, str) else data
        rest = {key: value for key, value in data.items() if key != "name"}
        name, known = data.get("name"), f"known: {', '.join([*self.table, 'module:Class'])}."
        if not self.table and ":" not in str(name):
            raise shape_error(at, "module:Class", data)
        if not isinstance(name, str):
            raise MisreadError(f"the key {inner(at, 'name')!r} is missing; {known}")
        if name not in self.table and ":" not in name:
            close = did_you_mean(name, self.table)
            raise MisreadError(f"{where(at)}no {self._word} is called {name!r}; {known}{close}")
        found: Any = self.table.get(name) or attempt(self.imported, at, name)
        if isinstance(found, type):
            value = self._record(found, at).made(rest, at)
        else:
            value = attempt(found, at) if name in self.table else found
            if rest:
                value = attempt(partial(replace, value), at, **self._record(type(value), at).read(rest, at))
        return self._checked(value, name, at)

    def written(self, value: Any, at: str) -> Any:
        """Return the name with all fields, or the bare name if there are none."""
        cls = type(value)
        if is_dataclass(cls):
            name = next((name for name, entry in self.table.items() if entry is cls), name_of(cls) or "")
            data = self._record(cls, at).written(self._checked(value, name, at), at)
            return {"name": name, **data} if data or name not in self.table else name
        called = None if isinstance(value, type) else name_of(value)
        if called is None:
            raise MisreadError(f"{where(at)}no file can say a {cls.__name__}: make it a frozen dataclass.")
        self._checked(value, called, at)
        return called

    def schema(self, define: Define) -> Schema:
        """Return the schemas of all names."""
        bare, objects = [], []
        for name, entry in self.table.items():
            record = self.of(entry if isinstance(entry, type) else type(entry()))
            needed = record.needed if isinstance(entry, type) else []
            key = f"{_key(record.cls)}-{name}"
            objects.append(define(key, partial(record.schema, define, name, needed)))
            bare += [] if needed else [name]
        own = {"type": "object", "properties": {"name": ANY_NAME}, "required": ["name"]}
        return {**_about(self.kind), "oneOf": [*([{"enum": bare}] if bare else []), *objects, ANY_NAME, own]}

    @property
    def _word(self) -> str:
        name = self.kind.__name__ if isinstance(self.kind, type) else "callable"
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()

    def _record(self, cls: type[Any], at: str) -> Record:
        if not is_dataclass(cls) or "name" in (f.name for f in fields(cls)):
            raise MisreadError(f"{where(at)}{cls.__name__} has to be a dataclass without a field 'name'.")
        return self.of(cls)

    def _checked(self, value: Any, name: str, at: str) -> Any:
        """Return an imported value if it is of the base class, or has the members of the protocol."""
        if name in self.table or not isinstance(self.kind, type):
            return value
        protocol = getattr(self.kind, "_is_protocol", False)
        members = {*vars(self.kind), *vars(self.kind).get("__annotations__", ())} if protocol else set()
        lacks = sorted(m for m in members if not m.startswith("_") and not hasattr(value, m))
        if lacks or not (protocol or isinstance(value, self.kind)):
            why = f": it has no {lacks[0]!r}" if lacks else ""
            raise MisreadError(f"{where(at)}{name} is no {self._word}{why}.")
        return value


def called(imported: Callable[[str], Any], option: Kind) -> Kind:
    """Return the kind of a callable: ``module:name``, or a mapping of `call` and the keywords that are filled in.

    `option` is the kind of a keyword's value. What no file can import, a lambda, is written all the same.
    """

    def parse(data: Any, at: str) -> Any:
        name = data.get("call") if isinstance(data, Mapping) else data
        if not isinstance(name, str) or ":" not in name:
            raise shape_error(at, "a function, as module:name or {call: module:name, ...}", data)
        function = attempt(imported, at, name)
        if not isinstance(data, Mapping):
            return function
        options = {key: value for key, value in data.items() if key != "call"}
        if faults := _unknown(function, options, at, option):
            raise MisreadError(*faults)
        return partial(function, **options)

    def plain(value: Any, at: str) -> Any:
        function = value.func if isinstance(value, partial) else value
        if (name := name_of(function)) is None or (isinstance(value, partial) and value.args):
            raise MisreadError(
                f"{where(at)}no file can say it: give a function, or a partial of one with keywords."
            )
        if not isinstance(value, partial):
            return name
        return {"call": name} | {k: option.plain(v, inner(at, k)) for k, v in value.keywords.items()}

    call = {"type": "object", "properties": {"call": ANY_NAME}, "required": ["call"]}
    return Kind(parse, plain, lambda define: {"anyOf": [ANY_NAME, call]})


def _unknown(function: Callable[..., Any], options: Iterable[str], at: str, option: Kind) -> list[str]:
    """Return the faults of keywords that a function does not have, where it says which it has."""
    try:
        known = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a built-in
        return []
    kinds = {p.name: option for p in known if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if any(p.kind is p.VAR_KEYWORD for p in known):
        return []
    return [unknown_key(at, key, kinds) for key in options if key not in kinds]


def _options(cls: type[Any]) -> list[Field[Any]]:
    return [f for f in fields(cls) if f.init]


@cache
def _hints(cls: Any) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except NameError as error:
        raise MisreadError(
            f"{cls.__name__}: the annotation {error.name!r} is not there when the program runs: import it outside of "
            "TYPE_CHECKING."
        ) from error


def _about(kind: Any) -> Schema:
    """Return the first line of a class's docstring; without one, dataclasses write their signature there."""
    line = (kind.__doc__ or "").strip().partition("\n")[0] if isinstance(kind, type) else ""
    return {} if not line or line.startswith(f"{kind.__name__}(") else {"description": line}


def _key(kind: Any) -> str:
    """Return where a schema keeps what it says of a class."""
    name = f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else str(kind)
    return re.sub(r"\W+", ".", name)
