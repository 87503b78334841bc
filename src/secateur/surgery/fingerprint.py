"""Recognise the model that a plan was made for, and name its tensors."""

from __future__ import annotations

import hashlib

from torch import Tensor, nn

from .plan import Fingerprint

__all__ = ["fingerprint"]


def fingerprint(model: nn.Module) -> Fingerprint:
    """Return the class of a model and a hash over the names and shapes of its parameters and buffers.

    Values, data types and devices do not matter.

    >>> fingerprint(nn.Linear(2, 3)) == fingerprint(nn.Linear(2, 3)) != fingerprint(nn.Linear(3, 2))
    True
    """
    state = model.state_dict()
    lines = sorted(f"{name} {tuple(t.shape)}" for name, t in state.items() if isinstance(t, Tensor))
    return Fingerprint(type(model).__qualname__, hashlib.sha256("\n".join(lines).encode()).hexdigest())
