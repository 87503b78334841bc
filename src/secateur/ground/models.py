"""What users give as a model: a module, or what holds one, as the result of a run does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from .errors import UsageError

__all__ = ["HasModel", "ModelLike", "module_of"]


@runtime_checkable
class HasModel(Protocol):
    """Something with a model in it, such as a `Result`."""

    @property
    def model(self) -> nn.Module:
        """The model."""
        ...


ModelLike = nn.Module | HasModel
"""A module, or a result, whose model is meant."""


def module_of(given: Any) -> nn.Module:
    """Return the module that a user means.

    Raises:
        UsageError: it is none; the message says what to give instead.

    >>> module_of(nn.Linear(2, 3))
    Linear(in_features=2, out_features=3, bias=True)
    >>> module_of("resnet18")
    Traceback (most recent call last):
    secateur.ground.errors.UsageError: 'resnet18' is a name, not a model: make the model first, for instance \
torchvision.models.get_model('resnet18').
    """
    if isinstance(given, nn.Module):
        return given
    if isinstance(given, HasModel) and isinstance(given.model, nn.Module):
        return given.model
    if isinstance(given, str):
        hint = (
            f"{given!r} is a name, not a model: make the model first, for instance "
            f"torchvision.models.get_model({given!r})."
        )
    elif isinstance(given, Mapping) and any(isinstance(value, Tensor) for value in given.values()):
        hint = "This is a state dict, not a model: make the model, and let it load_state_dict(...)."
    elif isinstance(given, type) and issubclass(given, nn.Module):
        hint = f"{given.__name__} is a class, not a model: make one, {given.__name__}(...)."
    else:
        hint = f"A model has to be a torch.nn.Module, not a {type(given).__name__}."
    raise UsageError(hint)
