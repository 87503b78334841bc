"""Keywords that a constructor does not have, answered with those that it has."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from .errors import UsageError, did_you_mean

__all__ = ["keywords"]

C = TypeVar("C", bound=type)


def keywords(**meant: str) -> Callable[[C], C]:
    """Decorate a class whose constructor names the keywords that it knows when it is given another.

    `meant` says what is meant by names that other tools use, for those who come from there.

    >>> from dataclasses import dataclass
    >>> @keywords(colour="shade")
    ... @dataclass(frozen=True)
    ... class Paint:
    ...     shade: str = "red"
    >>> Paint(colour="blue")
    Traceback (most recent call last):
    secateur.ground.errors.UsageError: Paint has no keyword 'colour'; it has shade. Did you mean 'shade'?
    """

    def decorated(cls: C) -> C:
        changed: Any = cls
        made = changed.__init__
        known = [name for name in inspect.signature(made).parameters if name != "self"]

        @wraps(made)
        def init(self: Any, *args: Any, **options: Any) -> None:
            for name in options.keys() - set(known):
                hint = f" Did you mean {meant[name]!r}?" if name in meant else did_you_mean(name, known)
                raise UsageError(f"{cls.__name__} has no keyword {name!r}; it has {', '.join(known)}.{hint}")
            made(self, *args, **options)

        changed.__init__ = init
        return cls

    return decorated
