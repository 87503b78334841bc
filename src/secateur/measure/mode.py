"""Run models in evaluation mode or with other threads, and leave all as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from secateur.modes import evaluating

__all__ = ["Inputs", "call", "evaluating", "using_threads"]

Inputs = Sequence[Any] | Mapping[str, Any]
"""Positional inputs of a model, or keyword inputs."""


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Run a model on its inputs."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


@contextmanager
def using_threads(number: int | None) -> Iterator[int]:
    """Set torch's number of intra-op threads inside of the block (None: as it is), and give the number in use."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
