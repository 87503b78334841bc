"""Run models in evaluation mode or with other threads, and leave all as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["Inputs", "call", "evaluating", "using_threads"]

Inputs = Sequence[Any] | Mapping[str, Any]
"""Positional inputs of a model, or keyword inputs."""


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Run a model on its inputs."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


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
    modes = [(m, m.training) for model in models for m in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def using_threads(number: int | None) -> Iterator[int]:
    """Set torch's number of intra-op threads inside of the block (None: as it is), and give the number in use."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
