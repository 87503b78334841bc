"""A model's parameters and buffers by name, and which names are one tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

__all__ = ["floating", "identity", "named_tensors", "tensor_names", "tensors_of", "tied_once"]


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer under every name that it has, buffers that are not saved included."""
    return dict(named_tensors(model))


def tensor_names(model: nn.Module) -> list[tuple[str, ...]]:
    """Return all names of each parameter and buffer, the canonical one first; tied tensors are one entry.

    Two names are one tensor if they are the same object, or the same memory in the same shape.

    >>> layer = nn.Linear(2, 2, bias=False)
    >>> tensor_names(nn.Sequential(layer, layer))
    [('0.weight', '1.weight')]
    """
    names: dict[Any, list[str]] = defaultdict(list)
    for name, tensor in named_tensors(model):
        names[identity(tensor)].append(name)
    return [tuple(group) for group in names.values()]


def tied_once(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer once, under its canonical name."""
    known = tensors_of(model)
    return {names[0]: known[names[0]] for names in tensor_names(model)}


def floating(outputs: Iterable[Any] | None) -> list[Tensor]:
    """Return the floating tensors among outputs."""
    return [x for x in tree_leaves(outputs) if isinstance(x, Tensor) and x.is_floating_point()]


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer with each of its names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def identity(tensor: Tensor) -> Any:
    """Return what two names have in common exactly if they are one tensor."""
    if tensor.numel() == 0 or tensor.device.type == "meta":
        return id(tensor)
    return tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype
