"""What a model is called with, in one form: a tensor, positional inputs, or keyword inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from .devices import device_of, moved
from .errors import SecateurError, TraceError, did_you_mean

__all__ = ["BatchDims", "Example", "Inputs", "plain", "types_told"]

BatchDims = int | Sequence[int | None] | Mapping[str, int | None]
"""Which dimension of each input counts samples, None where none does: one for all inputs, by position, or by name.

Inputs that are not named have none, so ``()`` says that no input has a batch (one graph of nodes and edges, say).
"""


@dataclass(frozen=True)
class Inputs:
    """The positional and the keyword inputs of one call of a model.

    `batch_dims` need only be given where a trace does not find them by itself.

    >>> import torch
    >>> Inputs.of(torch.zeros(2, 3)).batch, Inputs.of({"x": torch.zeros(4, 3)}).batch
    (2, 4)
    >>> Inputs.of((torch.zeros(2, 3),))(nn.Linear(3, 5)).shape
    torch.Size([2, 5])
    >>> Inputs.of((torch.zeros(7, 2, 3), torch.zeros(7, 7)), batch_dims=(1, None)).batch  # sequence first, and a mask
    2
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    batch_dims: BatchDims | None = None  # None: found by the trace

    @staticmethod
    def of(given: Example, batch_dims: BatchDims | None = None) -> Inputs:
        """Return the inputs that a user means: a mapping holds keyword inputs, a tuple or list positional ones."""
        if isinstance(given, Inputs):
            return given
        if isinstance(given, Mapping):
            return Inputs((), dict(given), batch_dims)
        return Inputs(tuple(given) if isinstance(given, tuple | list) else (given,), {}, batch_dims)

    def __call__(self, model: nn.Module) -> Any:
        """Run a model on the inputs, which are moved to its device."""
        given = self.beside(model)
        return model(*given.args, **given.kwargs)

    def beside(self, model: nn.Module) -> Inputs:
        """Return the inputs on a model's device; as they are where it has tensors on several, whose hooks move them."""
        device = device_of(model)
        if device is None or all(x.device == device for x in self.leaves if isinstance(x, Tensor)):
            return self
        args, kwargs = moved((self.args, dict(self.kwargs)), device)
        return Inputs(args, kwargs, self.batch_dims)

    @property
    def values(self) -> tuple[Any, ...]:
        """All inputs, the positional ones first."""
        return (*self.args, *self.kwargs.values())

    @property
    def leaves(self) -> list[Any]:
        """All inputs one by one, those inside of containers too, in the order in which torch.export counts them."""
        leaves: list[Any] = tree_leaves((self.args, dict(self.kwargs)))
        return leaves

    @property
    def batch(self) -> int:
        """Number of samples: the size of the first batch dimension; without `batch_dims`, of the first tensor."""
        dims = self.dims()
        if dims is None:
            return next((x.shape[0] for x in self.values if isinstance(x, Tensor) and x.dim()), 1)
        return next((x.shape[d] for x, d in zip(self.leaves, dims, strict=True) if d is not None), 1)

    def dims(self) -> tuple[int | None, ...] | None:
        """Return the batch dimension of each leaf as `batch_dims` says; None if it says nothing.

        Raises:
            TraceError: it names an input or a dimension that is not there, or batches of different sizes.
        """
        if self.batch_dims is None:
            return None
        found: list[int | None] = []
        for name, value, dim in self._named(self.batch_dims):
            found += (_checked(name, x, dim) for x in tree_leaves(value))
        sizes = {x.shape[d] for x, d in zip(self.leaves, found, strict=True) if d is not None}
        if len(sizes) > 1:
            raise TraceError(
                f"batch_dims={self.batch_dims!r} names dimensions of different sizes, {sorted(sizes)}: "
                "name in each input the one that counts its samples, and None where none does."
            )
        return tuple(found)

    def detached(self) -> Inputs:
        """Return the inputs without their gradients' history."""
        args, kwargs = tree_map_only(Tensor, Tensor.detach, (self.args, dict(self.kwargs)))
        return Inputs(args, kwargs, self.batch_dims)

    def _named(self, batch_dims: BatchDims) -> list[tuple[str, Any, int | None]]:
        """Return name, value and batch dimension of each input."""
        names = [*map(str, range(len(self.args))), *self.kwargs]
        if isinstance(batch_dims, int):
            batch_dims = dict.fromkeys(names, batch_dims)
        elif isinstance(batch_dims, Mapping):
            unknown = [n for n in batch_dims if n not in self.kwargs]
            if unknown:
                raise TraceError(
                    f"batch_dims names {unknown[0]!r}, which is no keyword input."
                    f"{did_you_mean(unknown[0], self.kwargs)}"
                )
        elif len(batch_dims) > len(names):
            raise TraceError(f"batch_dims has {len(batch_dims)} entries for {len(names)} inputs.")
        else:
            batch_dims = dict(zip(names, batch_dims))
        return [(n, v, batch_dims.get(n)) for n, v in zip(names, self.values, strict=True)]


Example = Tensor | Sequence[Any] | Mapping[str, Any] | Inputs
"""What users give as a model's inputs: a tensor, a tuple of positional or a mapping of keyword inputs."""


@contextmanager
def types_told(inputs: Any, kind: type[SecateurError]) -> Iterator[None]:
    """Let torch's refusal of data types that do not go together become an error that says what to convert.

    Raises:
        kind: operands are of several types; the message names those of the inputs.
    """
    try:
        yield
    except RuntimeError as error:
        if not re.search(r"dtype|Input type .* type", str(error)):
            raise
        types = dict.fromkeys(str(x.dtype) for x in tree_leaves(inputs) if isinstance(x, Tensor))
        raise kind(
            f"The model does not take inputs of {', '.join(types)}: {str(error).splitlines()[0]}. Convert them to the "
            "model's type, x.to(next(model.parameters()).dtype), and labels to what the loss takes (long for classes)."
        ) from error


def plain(value: Any) -> Any:
    """Return a tensor of a subclass that only carries a name (fastai's TensorImage) as a plain one, all else as it is.

    >>> import torch
    >>> class Image(Tensor): pass
    >>> type(plain(torch.zeros(2).as_subclass(Image))).__name__
    'Tensor'
    """
    if not isinstance(value, Tensor) or type(value) in (Tensor, nn.Parameter):
        return value
    # Quantised, sharded, fake ones.
    dispatches = getattr(type(value), "__torch_dispatch__") is not getattr(Tensor, "__torch_dispatch__")  # noqa: B009
    return value if dispatches else value.as_subclass(Tensor)


def _checked(name: str, value: Any, dim: int | None) -> int | None:
    if dim is None or not isinstance(value, Tensor) or not value.ndim:
        return None
    if not -value.ndim <= dim < value.ndim:
        raise TraceError(
            f"batch_dims says that dimension {dim} of input {name} counts samples, but its shape is "
            f"{tuple(value.shape)}."
        )
    return dim % value.ndim
