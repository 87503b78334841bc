"""Checks of plain data that was read from JSON: each returns the value, or says which entry is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .errors import ArtefactError, did_you_mean

__all__ = ["integer", "keys", "listed", "mapping", "named", "short"]

MAX_SIZE = 2**31
MAX_NAME = 1024
T = TypeVar("T")


def mapping(data: object, where: str) -> Mapping[str, Any]:
    """Return an object with names as keys."""
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ArtefactError(f"{where} must be an object, not {short(data)}")
    return data


def keys(data: object, where: str, *names: str) -> Mapping[str, Any]:
    """Return an object that has these entries and no others."""
    entries = mapping(data, where)
    for name in names:
        if name not in entries:
            raise ArtefactError(f"{where} has no entry {name!r}")
    for name in entries:
        if name not in names:
            raise ArtefactError(f"{where} has an unknown entry {short(name)}.{did_you_mean(name, names)}")
    return entries


def listed(data: object, where: str, read: Callable[[object, str], T]) -> tuple[T, ...]:
    """Return a list, each entry as `read` returns it."""
    if not isinstance(data, list):
        raise ArtefactError(f"{where} must be a list, not {short(data)}")
    return tuple(read(entry, f"{where}[{i}]") for i, entry in enumerate(data))


def named(data: object, where: str) -> str:
    """Return a name of at most 1024 characters."""
    if not isinstance(data, str) or not 0 < len(data) <= MAX_NAME:
        raise ArtefactError(f"{where} must be a name of 1 to {MAX_NAME} characters, not {short(data)}")
    return data


def integer(data: object, where: str, low: int, high: int = MAX_SIZE) -> int:
    """Return an integer within a range."""
    # JSON's true and false are Python integers as well.
    if not isinstance(data, int) or isinstance(data, bool) or not low <= data <= high:
        raise ArtefactError(f"{where} must be an integer from {low} to {high}, not {short(data)}")
    return data


def short(data: object) -> str:
    """Return a value as a short text for messages."""
    text = repr(data) if isinstance(data, str | int | float | bool | None) else type(data).__name__
    return text if len(text) <= 60 else text[:60] + "..."
