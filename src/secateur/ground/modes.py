"""Run models in one mode or another, and leave everything as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

__all__ = ["evaluating", "training", "without_fastpath"]


def evaluating(*models: nn.Module) -> AbstractContextManager[None]:
    """Put models into evaluation mode; afterwards every submodule has its own mode again.

    >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with evaluating(model):
    ...     model[0].training
    False
    >>> model[0].training, model[1].training
    (True, False)
    """
    return _in_mode(models, training=False)


def training(*models: nn.Module) -> AbstractContextManager[None]:
    """Put models into training mode; afterwards every submodule has its own mode again."""
    return _in_mode(models, training=True)


@contextmanager
def without_fastpath() -> Iterator[None]:
    """Let torch's own attention and encoder layers run the code that an export shows.

    In evaluation they make single native calls otherwise, which a counter cannot look into, and which give zeros at
    positions that are masked as padding.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _in_mode(models: tuple[nn.Module, ...], training: bool) -> Iterator[None]:
    modes = [(m, m.training) for model in models for m in model.modules()]
    try:
        for model in models:
            model.train(training)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
