"""What an expression of a model's code is worth, as far as it is a number or a sequence of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Free", "Number", "Value", "plain", "worth"]

_LONGEST = 64


@dataclass(frozen=True)
class Free:
    """An integer that follows from sizes of the inputs that may be others: what it is for the example."""

    hint: int


Number = int | float | Free
Value = int | float | Free | tuple[Any, ...]
"""A number, or a sequence of numbers and of None for what is none."""


def plain(value: Any) -> Value | None:
    """Return what is known of a value of the running code, or None if it is nothing with numbers.

    >>> plain([2, None, torch.Size([3])]), plain(True), plain("2")
    ((2, None, (3,)), None, None)
    """
    if type(value) in (int, float):
        return value if value == value else None  # NaN equals nothing, itself included
    if isinstance(value, torch.SymInt):
        known = value.node.maybe_as_int()
        return (
            known
            if known is not None
            else Free(int(value.node.hint))
            if value.node.hint is not None
            else None
        )
    if isinstance(value, tuple | list) and len(value) <= _LONGEST:
        parts = tuple(map(plain, value))
        return parts if any(part is not None for part in parts) else None
    return None


def worth(value: Value | None) -> int | float | None:
    """Return the number that a value is for the example, or None if it is none."""
    if isinstance(value, tuple):
        return None
    return value.hint if isinstance(value, Free) else value
