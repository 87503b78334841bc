"""Dry runs: a model's code runs, and no number is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from secateur.graph.export import quiet
from secateur.ground.modes import evaluating, without_fastpath

__all__ = ["dry", "larger"]


def dry(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run a model in evaluation mode on tensors without values and return what it returns, of the same kind.

    The model may keep such tensors afterwards: give a copy. What its code raises is raised.
    """
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        evaluating(model),
        torch.no_grad(),
        without_fastpath(),
        quiet(),
    ):
        given, named = pytree.tree_map_only(Tensor, mode.from_tensor, (args, dict(kwargs)))
        return model(*given, **named)


def larger(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield inputs that a model may take: of twice the batch, and of twice the height and width or the length too."""
    for inner in ((), (1,), (2,)):

        def scale(tensor: Tensor, inner: tuple[int, ...] = inner) -> Tensor:
            if not tensor.ndim:
                return tensor
            dims = range(2, tensor.ndim) if tensor.ndim > 3 else [d for d in inner if d < tensor.ndim]
            for d in {0, *(dims if inner else ())}:
                tensor = torch.cat([tensor, tensor], d)
            return tensor

        yield pytree.tree_map_only(Tensor, scale, (args, dict(kwargs)))
