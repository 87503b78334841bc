"""What was run as plain data, so that a resume under other options is refused with the difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from functools import partial
from numbers import Number
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from .importing import name_of
from .plain import to_plain
from .processes import digest
from .tensors import tensors_of

__all__ = ["describe", "differences", "fingerprint"]


def describe(value: Any) -> Any:
    """Return plain data as `to_plain` does, and a `fingerprint` of what no file can say.

    Two descriptions are equal where the runs are, as far as can be told: what a function does is not looked at.

    >>> describe(partial(sorted, reverse=True))
    {'call': 'builtins:sorted', 'reverse': True}
    """
    return to_plain(value, kind=Any, otherwise=fingerprint)


def fingerprint(value: Any) -> Any:
    """Return plain data that tell values apart: a checksum of networks and tensors, of data loaders what they say.

    >>> fingerprint(iter([1]))
    {'type': 'list_iterator'}
    """
    match value:
        case nn.Module():
            return {"model": type(value).__qualname__, "checksum": digest(tensors_of(value))}
        case Tensor():
            return {"shape": list(value.shape), "checksum": digest({"": value})}
        case DataLoader():
            data = {"dataset": type(value.dataset).__name__, "batch size": value.batch_size}
            return data | {"sampler": type(value.sampler).__name__} | _length(value)
        case partial():
            call = {
                "call": name_of(value.func) or describe(value.func),
                "arguments": list(map(describe, value.args)),
            }
            return call | {key: describe(option) for key, option in value.keywords.items()}
        case Mapping():
            if all(isinstance(entry, Tensor) for entry in value.values()):
                return {"tensors": len(value), "checksum": digest(value)}
            return {str(key): describe(entry) for key, entry in value.items()}
        case tuple() if len(value) <= 16:  # longer ones may be data
            return [describe(entry) for entry in value]
        case Number():  # of another library
            return str(value)
    name = getattr(value, "__qualname__", None)
    return {"type": type(value).__name__} | _length(value) if name is None else f"{value.__module__}:{name}"


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
