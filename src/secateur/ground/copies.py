"""Copies of models: also of those that hold tensors of their last forward, or what cannot be copied at all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .errors import SurgeryError
from .tensors import tensors_of

__all__ = ["copied", "copyable"]

M = TypeVar("M", bound=nn.Module)


def copied(model: M, memo: Mapping[int, Any] | None = None) -> M:
    """Return a deep copy of a model.

    `memo` says by ``id`` what stands for an object in the copy, as for ``copy.deepcopy``. A tensor with a history
    that the model holds (attention maps, an auxiliary loss, the weight that a hook of ``weight_norm`` computed) is
    copied as a value: its history belongs to a forward of the model that it was computed by.

    Raises:
        SurgeryError: something that the model holds cannot be copied; the message names the attribute.

    >>> import torch
    >>> layer = nn.Linear(2, 2)
    >>> layer.last = layer(torch.ones(1, 2))
    >>> copied(layer).last.requires_grad
    False
    """
    try:
        with _Values():
            return copy.deepcopy(model, dict(memo or {}))
    except Exception as error:  # whatever the attributes' own code does
        raise SurgeryError(
            f"{_culprit(model) or type(model).__name__} cannot be copied: {_said(error)}"
        ) from error


def copyable(model: nn.Module) -> None:
    """Check before any work is done that a model can be copied. Its tensors are not.

    Raises:
        SurgeryError: as `copied`.
    """
    copied(model, {id(t): t for t in tensors_of(model).values()})


class _Values(TorchFunctionMode):
    """Copies tensors with a history as values, which ``copy.deepcopy`` refuses."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and args[0].grad_fn is not None:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))


def _culprit(model: nn.Module) -> str:
    """Return the first attribute that cannot be copied though modules and tensors are left out, or nothing."""
    known = {id(x): x for x in (*model.modules(), *tensors_of(model).values())}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            try:
                with _Values():
                    copy.deepcopy(value, dict(known))
            except Exception:  # the same
                return f"the attribute {f'{path}.{name}' if path else name} (a {type(value).__name__})"
    return ""


def _said(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (
        f"{type(error).__name__}: {text[0][:200] if text else ''}. Remedy: set the attribute to None while the model "
        "is pruned, or give its class a __deepcopy__."
    )
