"""Modules that have several names."""

from __future__ import annotations

from torch import nn

__all__ = ["first_names"]


def first_names(model: nn.Module) -> dict[str, str]:
    """Return for every name that a module has the first of its names.

    >>> act = nn.ReLU()
    >>> first_names(nn.Sequential(act, act))
    {'': '', '0': '0', '1': '0'}
    """
    first: dict[nn.Module, str] = {}
    return {path: first.setdefault(m, path) for path, m in model.named_modules(remove_duplicate=False)}
