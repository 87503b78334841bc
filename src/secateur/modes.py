"""Run models in evaluation or training mode, and leave every module as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating", "training"]


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models into evaluation mode; afterwards every submodule has its own mode again.

    >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with evaluating(model):
    ...     model[0].training
    False
    >>> model[0].training, model[1].training
    (True, False)
    """
    with _restored(models):
        for model in models:
            model.eval()
        yield


@contextmanager
def training(*models: nn.Module) -> Iterator[None]:
    """Put models into training mode; afterwards every submodule has its own mode again."""
    with _restored(models):
        for model in models:
            model.train()
        yield


@contextmanager
def _restored(models: tuple[nn.Module, ...]) -> Iterator[None]:
    modes = [(m, m.training) for model in models for m in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
