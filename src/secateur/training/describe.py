"""A run's options as plain data, so that a resume under other options is refused with the difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import PurePath
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from secateur.ground.processes import digest
from secateur.ground.tensors import tensors_of

from .options import Checkpoints

__all__ = ["describe", "differences"]


def describe(value: Any) -> Any:
    """Return plain data: dataclasses by field, functions by name, networks and tensors by a checksum of their values.

    Two descriptions are equal where the runs are, as far as can be told: what a function does is not looked at.

    >>> describe(partial(max, 3))
    {'function': 'builtins:max', 'arguments': [3]}
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Checkpoints():
            return None  # where a run is kept does not change it
        case nn.Module():
            return {"model": type(value).__qualname__, "checksum": digest(tensors_of(value))}
        case Tensor():
            return {"shape": list(value.shape), "checksum": digest({"": value})}
        case DataLoader():
            data = {"dataset": type(value.dataset).__name__, "batch size": value.batch_size}
            return data | {"sampler": type(value.sampler).__name__} | _length(value)
        case partial():
            call = {"function": _name(value.func), "arguments": [describe(v) for v in value.args]}
            return call | {k: describe(v) for k, v in value.keywords.items()}
        case Mapping():
            if all(isinstance(v, Tensor) for v in value.values()):
                return {"tensors": len(value), "checksum": digest(value)}
            return {str(k): describe(v) for k, v in value.items()}
        case PurePath():
            return str(value)
        case Enum():
            return value.name
        case tuple() | list() if all(v is None or isinstance(v, bool | int | float | str) for v in value):
            return list(value)
        case tuple() if len(value) <= 16:  # longer ones may be data
            return [describe(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        named = {f.name: describe(getattr(value, f.name)) for f in fields(value) if f.compare}
        return {"type": type(value).__name__, **named}
    if callable(value) and hasattr(value, "__qualname__"):
        return _name(value)
    return {"type": type(value).__name__} | _length(value)


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Yield what differs between two descriptions, a line each.

    >>> list(differences({"a": {"b": 1}}, {"a": {"b": 2}}))
    ['a.b: 2, was 1']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            inner = f"{path}.{key}" if path else str(key)
            if key in old and key in new:
                yield from differences(old[key], new[key], inner)
            else:
                yield f"{inner}: {'is new' if key in new else 'is missing'}"
    elif old != new:
        yield f"{path}: {new!r}, was {old!r}"


def _length(value: Any) -> dict[str, int]:
    try:
        return {"length": len(value)} if isinstance(value, Sized) else {}
    except TypeError:  # a DataLoader over a stream
        return {}


def _name(function: Any) -> str:
    return (
        f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', type(function).__name__)}"
    )
