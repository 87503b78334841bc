"""What annotations mean in a file: how data are read, how values are written, what an editor is told, side by side."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checked import short
from .errors import RecipeError, SecateurError, did_you_mean

__all__ = [
    "NULL",
    "PATH",
    "SCALARS",
    "TEXT",
    "Define",
    "Kind",
    "MisreadError",
    "Schema",
    "attempt",
    "choice",
    "inner",
    "listed",
    "mapped",
    "one_of",
    "read_all",
    "shape_error",
    "unknown_key",
    "unsayable",
    "where",
]

Schema = dict[str, Any]
Define = Callable[[str, Callable[[], Schema]], Schema]
"""Keeps a part of a JSON schema under a key, made on first use, and returns the reference to it."""
MOST = 8  # faults that one message tells


class MisreadError(RecipeError):
    """Data that cannot be read, or a value that no file can say: a sentence for each fault, with the path of its key.

    `expected` names what was expected where the shape itself is wrong: of several forms, another may be meant then.
    """

    def __init__(self, *faults: str, expected: str = "") -> None:
        more = f" And {len(faults) - MOST} more." if len(faults) > MOST else ""
        super().__init__("Recipe: " + " Also: ".join(faults[:MOST]) + more)
        self.faults, self.expected = faults, expected


@dataclass(frozen=True)
class Kind:
    """What one annotation means in a file. What `plain` writes, `parse` reads; both take the path of the key as well.

    Both raise `MisreadError`, and `plain` does so for values of any other kind. `inside` are the keys of what has
    fields, and what each means. `sayable` is false where no file can say any value.
    """

    parse: Callable[[Any, str], Any]
    plain: Callable[[Any, str], Any]
    schema: Callable[[Define], Schema]
    inside: Callable[[], Mapping[str, Kind]] = dict
    sayable: bool = True


def scalar(cls: type, json: str, says: str) -> Kind:
    """Return the kind of a number, text, true or false, or null: strictly, but a whole number is a number."""

    def parse(data: Any, at: str) -> Any:
        allowed: Any = (int, float) if cls is float else cls
        if not isinstance(data, allowed) or (isinstance(data, bool) and cls is not bool):
            numeral = isinstance(data, str) and re.fullmatch(r"[-+]?[\d._]+(e[-+]?\d+)?", data, re.IGNORECASE)
            hint = ": numbers have no quotes and no underscores" if numeral else ""
            raise shape_error(at, says, data, hint if cls in (int, float) else "")
        if cls is float and not abs(data) <= sys.float_info.max:  # nan is not
            raise shape_error(at, "a finite number", data)
        return data

    def plain(value: Any, at: str) -> Any:  # as Python's own type, for files know no other
        value = parse(value, at)
        return next((t(value) for t in (bool, int, float, str) if isinstance(value, t)), None)

    return Kind(parse, plain, lambda define: {"type": json})


NULL, TEXT = scalar(type(None), "null", "null"), scalar(str, "string", "text")
SCALARS: Mapping[Any, Kind] = {
    None: NULL,
    type(None): NULL,
    str: TEXT,
    bool: scalar(bool, "boolean", "true or false"),
    int: scalar(int, "integer", "a whole number"),
    float: scalar(float, "number", "a valid number"),
}


def _path(value: Any, at: str) -> str:
    if not isinstance(value, str | os.PathLike) or isinstance(path := os.fspath(value), bytes):
        raise shape_error(at, "a path", value)
    return str(path)


def _read_path(data: Any, at: str) -> Path:
    if not isinstance(data, str):
        raise shape_error(at, "a path", data)
    return Path(data)


PATH = Kind(_read_path, _path, TEXT.schema)


def choice(values: Sequence[tuple[Any, Any]]) -> Kind:
    """Return the kind of a few values, (data, value) each: literals, members of an enumeration. True is not 1."""

    def find(value: Any, at: str, pairs: Sequence[tuple[Any, Any]]) -> Any:
        for known, other in pairs:
            if type(known) is type(value) and known == value:
                return other
        texts = [known for known, _ in pairs if isinstance(known, str)]
        close = did_you_mean(value, texts) if isinstance(value, str) else ""
        raise shape_error(at, _or(repr(known) for known, _ in pairs), value, close and f".{close}")

    swapped = [(value, data) for data, value in values]
    return Kind(
        lambda data, at: find(data, at, values),
        lambda value, at: find(value, at, swapped),
        lambda define: {"enum": [data for data, _ in values]},
    )


def listed(make: Callable[[Iterable[Any]], Any], entries: Sequence[Kind], endless: bool) -> Kind:
    """Return the kind of a tuple or list: of any length with one kind of entry, or with a kind for each."""

    def parts(data: Any, at: str) -> list[tuple[Kind, Any, str]]:
        if not isinstance(data, list | tuple):
            lone = f": write [{data}] for a lone entry" if isinstance(data, str | int | float) else ""
            raise shape_error(at, "a list", data, lone)
        if not endless and len(data) != len(entries):
            wanted = f"a list of {len(entries)}"
            raise MisreadError(f"{where(at)}expected {wanted}, not of {len(data)} entries.", expected=wanted)
        kinds = [entries[0]] * len(data) if endless else entries
        return [(kind, entry, inner(at, i)) for i, (kind, entry) in enumerate(zip(kinds, data))]

    def schema(define: Define) -> Schema:
        schemas = [kind.schema(define) for kind in entries]
        if endless:
            return {"type": "array", "items": schemas[0]}
        sizes = {"minItems": len(entries), "maxItems": len(entries)}
        return {"type": "array", **({"prefixItems": schemas} if schemas else {}), **sizes}

    return Kind(
        lambda data, at: make(read_all(parts(data, at))),
        lambda value, at: [kind.plain(entry, place) for kind, entry, place in parts(value, at)],
        schema,
    )


def mapped(entry: Kind) -> Kind:
    """Return the kind of a mapping from any text to one kind of entry."""

    def parts(data: Any, at: str) -> dict[str, tuple[Kind, Any, str]]:
        if not isinstance(data, Mapping):
            raise shape_error(at, "a mapping", data)
        return {TEXT.parse(key, at): (entry, value, inner(at, key)) for key, value in data.items()}

    return Kind(
        lambda data, at: dict(zip(data, read_all(parts(data, at).values()))),
        lambda value, at: {key: kind.plain(x, place) for key, (kind, x, place) in parts(value, at).items()},
        lambda define: {"type": "object", "additionalProperties": entry.schema(define)},
    )


def one_of(kinds: Sequence[Kind]) -> Kind:
    """Return the kind of a union: the first kind that can read or write does it."""

    def first(use: Callable[[Kind], Any], data: Any, at: str) -> Any:
        errors = []
        for kind in kinds:
            try:
                result = use(kind)
            except MisreadError as error:
                errors.append(error)
            else:
                return result, kind
        # What has the right shape was meant, of several such what has the fewest faults. Null has no other shape.
        errors = [error for error, kind in zip(errors, kinds) if kind is not NULL] or errors
        shaped = [error for error in errors if not error.expected] or errors[: len(errors) == 1]
        hint = "Write null for none" if NULL in kinds and data == "none" else ""
        if shaped:
            raise _nearest(shaped, hint)
        expected = _or(dict.fromkeys(error.expected for error in errors))
        raise shape_error(at, expected, data, hint and f". {hint}")

    def plain(value: Any, at: str) -> Any:
        data, kind = first(lambda kind: kind.plain(value, at), value, at)
        if isinstance(data, str) and kind is not TEXT and TEXT in kinds:
            raise MisreadError(
                f"{where(at)}{value!r} would be read as the text {data!r}: give its type a form."
            )
        return data

    return Kind(
        lambda data, at: first(lambda kind: kind.parse(data, at), data, at)[0],
        plain,
        lambda define: {"anyOf": [kind.schema(define) for kind in kinds]},
        lambda: {key: inner for kind in kinds for key, inner in kind.inside().items()},
        any(kind.sayable for kind in kinds),
    )


def _nearest(errors: Sequence[MisreadError], hint: str) -> MisreadError:
    """Return the error with the fewest faults; where several have one fault, they are told as alternatives."""
    fewest = min(len(error.faults) for error in errors)
    best = [error for error in errors if len(error.faults) == fewest]
    texts = dict.fromkeys(error.faults[0] for error in best)
    if fewest > 1 or (len(texts) == 1 and not hint):
        return best[0]
    return MisreadError(" Or: ".join(texts) + (f" {hint}." if hint else ""))


def unsayable(says: str) -> Kind:
    """Return the kind of what only a program can give: data loaders, networks, tensors."""

    def refuse(value: Any, at: str) -> Any:
        raise MisreadError(f"{where(at)}no file can say a {says}: leave it out, or run it from Python.")

    return Kind(refuse, refuse, lambda define: {"not": {}}, sayable=False)


def read_all(parts: Iterable[tuple[Kind, Any, str]], faults: Iterable[str] = ()) -> list[Any]:
    """Return the values of several data, (kind, data, path) each, or raise the faults of all of them together."""
    values, found = [], list(faults)
    for kind, data, at in parts:
        try:
            values.append(kind.parse(data, at))
        except MisreadError as error:
            found.extend(error.faults)
    if found:
        raise MisreadError(*found)
    return values


def attempt(make: Callable[..., Any], at: str, /, *arguments: Any, **options: Any) -> Any:
    """Call what checks its arguments; its error becomes one of the option that it names, else of the whole."""
    try:
        return make(*arguments, **options)
    except (SecateurError, ValueError, TypeError) as error:
        text = " ".join(str(error).split()).removeprefix("Recipe: ") or type(error).__name__
        named = [name for name in options if re.search(rf"\b{re.escape(name)}=", text)]
        place = inner(at, named[0]) if len(named) == 1 else at
        raise MisreadError(f"{where(place)}{text}{'' if text[-1] in '.?!' else '.'}") from error


def unknown_key(at: str, key: Any, kinds: Mapping[str, Kind]) -> str:
    """Say that a key is not known, and which one is closest: by its name, or by a name of the same in another place."""
    names = [name for name, kind in kinds.items() if kind.sayable]
    known = f"known: {', '.join(names)}" if names else "there are none"
    close = did_you_mean(str(key), names)
    if not close and (deeper := _places(str(key), kinds)):
        close = f" Did you mean {inner(at, deeper[0])!r}?"
    return f"unknown key {inner(at, key)!r}; {known}.{close}"


def _places(key: str, kinds: Mapping[str, Kind], depth: int = 3) -> list[str]:
    """Return the paths at which fields of fields have a name, the shortest first."""
    found = [f"{name}.{key}" for name, kind in kinds.items() if key in kind.inside()]
    if not found and depth > 1:
        for name, kind in kinds.items():
            found += [f"{name}.{place}" for place in _places(key, kind.inside(), depth - 1)]
    return found


def shape_error(at: str, expected: str, data: Any, hint: str = "") -> MisreadError:
    """Return the error of data that have another shape than was expected."""
    text = f"{where(at)}expected {expected}, not {short(data)}{hint}"
    return MisreadError(text if text.endswith("?") else f"{text}.", expected=expected)


def inner(at: str, key: Any) -> str:
    """Return the path of a key in what stands at a path."""
    return f"{at}.{key}" if at else str(key)


def where(at: str) -> str:
    """Return a path as the beginning of a message."""
    return f"{at}: " if at else ""


def _or(texts: Iterable[str]) -> str:
    *most, last = texts
    return f"{', '.join(most)} or {last}" if most else last
