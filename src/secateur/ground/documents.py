"""JSON and YAML as plain data, strictly: each key once, finite numbers, bounded in depth and size, nothing made of it.

YAML is read by its core schema of version 1.2, which is JSON with comments: ``yes`` is a text, ``1:30`` and 2024-01-01
are texts, there are no tags and no aliases. Keys are texts however they look, so that ``{0: 5}`` names the module "0".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import yaml

from .errors import ArtefactError, SecateurError

__all__ = ["MAX_DEPTH", "MAX_YAML", "parse_json", "parse_yaml", "to_yaml"]

MAX_DEPTH = 64
MAX_YAML = 2**20  # characters
READER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C, where it is compiled

_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_DECIMAL, _OCTAL, _HEXADECIMAL = r"[-+]?[0-9]+", r"0o[0-7]+", r"0x[0-9a-fA-F]+"
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
_ENDLESS = r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"


def parse_json(text: str, name: str, error: type[SecateurError] = ArtefactError) -> object:
    """Return the plain data of a JSON text; `name` is what messages call it.

    Raises:
        error: it is not JSON, a key stands twice, a number is not finite, a text is not Unicode, or it is nested more
            than 64 levels deep.

    >>> parse_json('{"a": [1, 2.5, null]}', "a.json")
    {'a': [1, 2.5, None]}
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            raise error(f"{name} has the same key twice in one object")
        return entries

    def refuse(constant: str) -> NoReturn:
        raise error(f"{name} holds {constant}, which is not JSON")

    def finite(numeral: str) -> float:
        number = float(numeral)
        if math.isinf(number):
            raise error(f"{name} holds {numeral:.40}, which is too large for a number")
        return number

    try:
        data: object = json.loads(text, object_pairs_hook=once, parse_constant=refuse, parse_float=finite)
        _check(data, MAX_DEPTH)
    except RecursionError:
        raise error(f"{name} is nested more than {MAX_DEPTH} levels deep") from None
    except ValueError as fault:
        raise error(f"{name} is not JSON, perhaps truncated: {fault}") from None
    return data


def _check(data: object, most: int) -> None:
    """Refuse what is nested too deep, and texts with half of a surrogate pair, which no file could hold again."""
    level: list[Any] = [[data]]
    depth = 0
    while level:
        if depth > most:
            raise RecursionError
        inner: list[Any] = []
        for entry in level:
            for value in (*entry, *entry.values()) if isinstance(entry, dict) else entry:
                if isinstance(value, dict | list):
                    inner.append(value)
                elif isinstance(value, str):
                    value.encode()
        level, depth = inner, depth + 1


def parse_yaml(
    text: str, name: str, error: type[SecateurError] = ArtefactError, depth: int = MAX_DEPTH
) -> object:
    """Return the plain data of one YAML document; `name` is what messages call it. An empty one is None.

    Raises:
        error: it is not YAML or longer than 2**20 characters; it has a tag, an alias, a key twice, or a number that is
            not finite; or it is nested more than `depth` levels deep. Messages say the line.

    >>> parse_yaml("a: [1, 1e-3, no, 1:30]", "a.yaml")
    {'a': [1, 0.001, 'no', '1:30']}
    """
    if len(text) > MAX_YAML:
        raise error(f"{name} has more than {MAX_YAML} characters")
    try:
        data = _Reading(yaml.parse(text, Loader=READER), name, error).document()
        _check(data, depth)
    except RecursionError:
        raise error(f"{name} is nested more than {depth} levels deep") from None
    except (yaml.YAMLError, ValueError) as fault:
        raise error(f"{name} is not YAML: {' '.join(str(fault).split())}") from None
    return data


class _Reading:
    """From the events of one parse to plain data; it fails at the first event that is not allowed."""

    def __init__(self, events: Iterator[yaml.Event], name: str, error: type[SecateurError]) -> None:
        self._events, self._name, self._error = events, name, error

    def document(self) -> object:
        data: object = None
        started = False
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if started:
                    raise self._fault(event, "begins another document: one is allowed")
                data, started = self._value(next(self._events)), True
        return data

    def _value(self, event: yaml.Event) -> object:
        if isinstance(event, yaml.AliasEvent):  # a short file could stand for a huge one
            raise self._fault(event, "has a YAML alias: write it out")
        self._refuse_tag(event)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        return self._mapping() if isinstance(event, yaml.MappingStartEvent) else self._list()

    def _list(self) -> list[object]:
        entries = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            entries.append(self._value(event))
        return entries

    def _mapping(self) -> dict[str, object]:
        entries: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._fault(event, "has a key that is no text")
            self._refuse_tag(event)
            key = event.value
            if key in entries:
                raise self._fault(event, f"has the same key twice: {key:.60}")
            entries[key] = self._value(next(self._events))
        return entries

    def _scalar(self, event: yaml.ScalarEvent) -> object:
        text: str = event.value
        if not event.implicit[0]:  # quoted
            return text
        if text in _WORDS:
            return _WORDS[text]
        if re.fullmatch(_DECIMAL, text):
            return int(text)
        if re.fullmatch(f"{_OCTAL}|{_HEXADECIMAL}", text):
            return int(text, 0)
        if re.fullmatch(_ENDLESS, text) or (re.fullmatch(_FLOAT, text) and math.isinf(float(text))):
            raise self._fault(event, f"holds {text:.40}, which is not a finite number")
        return float(text) if re.fullmatch(_FLOAT, text) else text

    def _refuse_tag(self, event: Any) -> None:
        if event.tag is not None:
            raise self._fault(event, f"is not YAML of plain data: it has the tag {event.tag:.60}")

    def _fault(self, event: yaml.Event, what: str) -> SecateurError:
        line = event.start_mark.line + 1 if event.start_mark is not None else "?"
        return self._error(f"{self._name}: line {line} {what}.")


class _Writer(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would read as something else than a text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _quoted(writer: _Writer, text: str) -> yaml.Node:
    # Some line breaks of Unicode are lost in every other style.
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Writer.add_representer(str, _quoted)
for _pattern in (_OCTAL, _FLOAT, _ENDLESS):
    _Writer.add_implicit_resolver(
        "tag:secateur,number", re.compile(f"(?:{_pattern})$"), list("-+.0123456789")
    )


def to_yaml(data: Mapping[str, Any]) -> str:
    """Return plain data as YAML, which `parse_yaml` and other readers read as the same data.

    >>> print(to_yaml({"block": "8x1", "rate": "1e-3", "on": [1, None]}), end="")
    block: 8x1
    rate: '1e-3'
    'on':
    - 1
    - null
    """
    text: str = yaml.dump(data, Dumper=_Writer, sort_keys=False, allow_unicode=True)
    return text
