"""Patterns: which layers a user means, by globs over module paths or by types."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

from .errors import UnknownNameError, did_you_mean

__all__ = ["Pattern", "check_patterns", "matches"]

Pattern = str | type[nn.Module]


def matches(model: nn.Module, path: str, pattern: Pattern) -> bool:
    """Say whether a pattern names a module or one that it is part of.

    >>> net = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    >>> matches(net, "0.0", "0"), matches(net, "0.0", "*.0"), matches(net, "0.0", nn.Conv2d)
    (True, True, False)
    """
    steps = path.split(".") if path else []
    parents = [".".join(steps[:n]) for n in range(1, len(steps) + 1)]
    if isinstance(pattern, str):
        return any(fnmatchcase(parent, pattern) for parent in parents)
    return any(isinstance(model.get_submodule(parent), pattern) for parent in parents)


def check_patterns(model: nn.Module, patterns: Iterable[Pattern], option: str) -> None:
    """Check that every glob matches a module path.

    Raises:
        UnknownNameError: one does not; the message names the option and the closest path.
    """
    paths = [path for path, _ in model.named_modules(remove_duplicate=False) if path]
    for pattern in patterns:
        if isinstance(pattern, str) and not any(fnmatchcase(path, pattern) for path in paths):
            raise UnknownNameError(
                f"{option}: no module path matches {pattern!r}.{did_you_mean(pattern, paths)} "
                "Print the model, or secateur.trace(model, x), to see the paths."
            )
