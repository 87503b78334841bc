"""Attributes that the code of a module reads sizes from."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from torch import nn

from .plan import SetAttribute, plain
from .seen import Seen
from .settle import Places, Reader
from .wanted import Evidence

__all__ = ["attributes", "pinned"]

_DEPTH = 8
_Elements = dict[int | None, set[tuple[int, int]]]


def attributes(model: nn.Module, seen: Seen) -> list[SetAttribute]:
    """Return the attributes that arguments which change are read from, where all say the same."""
    reader = Reader(seen.evidence, {number: e.record for number, e in seen.evidence.items()})
    found: dict[tuple[str, str], _Elements] = {}
    for number, at in seen.evidence.items():
        for (place, index), pair in seen.wanted.changed.get(number, {}).items():
            part = at.watch.code.source.expressions[place]
            for attribute, element in _read_from(reader, at, part, index, pair[0]):
                found.setdefault((at.watch.module, attribute), {}).setdefault(element, set()).add(pair)
    edits = (_set(model, module, attribute, elements) for (module, attribute), elements in found.items())
    return [edit for edit in edits if edit is not None]


def _set(model: nn.Module, module: str, attribute: str, elements: _Elements) -> SetAttribute | None:
    """Return the edit of an attribute of which these elements (or itself: None) go from one size to another."""
    old = plain(vars(model.get_submodule(module)).get(attribute))
    news = {i: next(iter(pairs))[1] for i, pairs in elements.items()}
    if old is None or attribute.startswith("_") or any(len(pairs) > 1 for pairs in elements.values()):
        return None
    if isinstance(old, tuple):
        new = tuple(news.get(i, n) for i, n in enumerate(old))
        return None if None in news else SetAttribute(module, attribute, old, new)
    return SetAttribute(module, attribute, old, news[None]) if news.keys() == {None} else None


def _read_from(
    reader: Reader, at: Evidence, part: ast.expr, index: int | None, own: int, depth: int = 0
) -> Iterator[tuple[str, int | None]]:
    """Yield the attributes, and elements of them, that an argument is read from and nothing else."""
    match part:
        case ast.Attribute() if at.watch.code.own(part):
            yield at.watch.code.own(part), index
        case ast.Subscript(ast.Attribute() as sizes, ast.Constant(int() as i)) if index is None and i >= 0:
            yield from _read_from(reader, at, sizes, i, own, depth + 1)
        case ast.Tuple(elements) | ast.List(elements) if index is not None and not any(
            isinstance(e, ast.Starred) for e in elements
        ):
            yield from _read_from(reader, at, elements[index], None, own, depth + 1)
        case ast.Name(name) if depth < _DEPTH:
            for where, value, element in reader.definitions(at, name, index, own):
                yield from _read_from(reader, where, value, element, own, depth + 1)


def pinned(seen: Seen, edit: SetAttribute) -> Places | None:
    """Return what makes a module's code see an attribute as it was; None if it reads it where no number can stand."""
    pins: Places = {}
    for at in seen.of(edit.module):
        source = at.watch.code.source
        for number, node in enumerate(source.expressions):
            if at.watch.code.own(node) == edit.attribute:
                if number not in source.sizes or type(edit.old) is not int:
                    return None
                pins[at.watch.number, number] = edit.old
    return pins
