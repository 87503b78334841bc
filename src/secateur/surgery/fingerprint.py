"""Recognise the model that a plan was made for, and name its tensors."""

from __future__ import annotations

import hashlib

from torch import Tensor, nn

from .plan import Fingerprint

__all__ = ["fingerprint", "tensors_of"]


def fingerprint(model: nn.Module) -> Fingerprint:
    """Return the class of a model and a hash over the names and shapes of its parameters and buffers.

    Values, data types and devices do not matter.

    >>> fingerprint(nn.Linear(2, 3)) == fingerprint(nn.Linear(2, 3)) != fingerprint(nn.Linear(3, 2))
    True
    """
    state = model.state_dict()
    lines = sorted(f"{name} {tuple(t.shape)}" for name, t in state.items() if isinstance(t, Tensor))
    return Fingerprint(type(model).__qualname__, hashlib.sha256("\n".join(lines).encode()).hexdigest())


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer under every name that it has, buffers that are not saved included."""
    parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    return parameters | dict(model.named_buffers(remove_duplicate=False))
