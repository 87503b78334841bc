"""What a model is called with, in one form: a tensor, positional inputs, or keyword inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

__all__ = ["Example", "Inputs"]


@dataclass(frozen=True)
class Inputs:
    """The positional and the keyword inputs of one call of a model.

    >>> import torch
    >>> Inputs.of(torch.zeros(2, 3)).batch, Inputs.of({"x": torch.zeros(4, 3)}).batch
    (2, 4)
    >>> Inputs.of((torch.zeros(2, 3),))(nn.Linear(3, 5)).shape
    torch.Size([2, 5])
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(given: Example) -> Inputs:
        """Return the inputs that a user means: a mapping holds keyword inputs, a tuple or list positional ones."""
        if isinstance(given, Inputs):
            return given
        if isinstance(given, Mapping):
            return Inputs((), dict(given))
        return Inputs(tuple(given) if isinstance(given, tuple | list) else (given,))

    def __call__(self, model: nn.Module) -> Any:
        """Run a model on the inputs."""
        return model(*self.args, **self.kwargs)

    @property
    def values(self) -> tuple[Any, ...]:
        """All inputs, the positional ones first."""
        return (*self.args, *self.kwargs.values())

    @property
    def batch(self) -> int:
        """The first dimension of the first tensor among the inputs."""
        return next((x.shape[0] for x in self.values if isinstance(x, Tensor) and x.dim()), 1)

    def detached(self) -> Inputs:
        """Return the inputs without their gradients' history."""
        args, kwargs = tree_map_only(Tensor, Tensor.detach, (self.args, dict(self.kwargs)))
        return Inputs(args, kwargs)


Example = Tensor | Sequence[Any] | Mapping[str, Any] | Inputs
"""What users give as a model's inputs: a tensor, a tuple of positional or a mapping of keyword inputs."""
