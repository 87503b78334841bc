"""The inputs with which a model was exported, as plain data: shapes and types, no values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.ground.errors import SurgeryError

__all__ = ["describe", "rebuild"]

MAX_ELEMENTS = 2**28
_PLAIN = (int, float, bool, str)
_DTYPES = {str(d).removeprefix("torch."): d for d in (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)}  # fmt: skip


def describe(inputs: Any) -> Any:
    """Return inputs as JSON data.

    Raises:
        SurgeryError: an input is neither a tensor nor plain data.

    >>> describe({"x": torch.zeros(2, 3), "flag": True})
    {'dict': {'x': {'tensor': [2, 3], 'dtype': 'float32'}, 'flag': True}}
    """
    if inputs is None or isinstance(inputs, _PLAIN):
        return inputs
    if isinstance(inputs, Tensor) and str(inputs.dtype).removeprefix("torch.") in _DTYPES:
        return {"tensor": list(inputs.shape), "dtype": str(inputs.dtype).removeprefix("torch.")}
    if type(inputs) in (list, tuple):
        return {type(inputs).__name__: [describe(entry) for entry in inputs]}
    if isinstance(inputs, Mapping) and all(isinstance(key, str) for key in inputs):
        return {"dict": {key: describe(entry) for key, entry in inputs.items()}}
    raise SurgeryError(f"an input of the type {type(inputs).__name__} cannot be written into a plan")


def rebuild(data: Any, device: torch.device) -> Any:
    """Return inputs of the described form; integers are ones, for a mask of zeros would hide everything.

    Raises:
        SurgeryError: the data describe no inputs, or more than 2^28 elements in all.
    """
    inputs = _rebuilt(data, device)  # in which a tensor is one element yet, however many it has
    total = sum(leaf.numel() for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor))
    if total > MAX_ELEMENTS:
        raise SurgeryError(
            f"the inputs described have {total:,} elements, at most {MAX_ELEMENTS:,} are allowed"
        )
    return pytree.tree_map_only(Tensor, Tensor.contiguous, inputs)


def _rebuilt(data: Any, device: torch.device) -> Any:
    if data is None or isinstance(data, _PLAIN):
        return data
    match data:
        case {"tensor": list(shape), "dtype": str(dtype)} if (
            dtype in _DTYPES
            and all(type(n) is int and 0 <= n <= MAX_ELEMENTS for n in shape)
            and math.prod(shape) <= MAX_ELEMENTS
        ):
            return torch.ones((), dtype=_DTYPES[dtype], device=device).expand(shape)
        case {"list": list(entries)}:
            return [_rebuilt(entry, device) for entry in entries]
        case {"tuple": list(entries)}:
            return tuple(_rebuilt(entry, device) for entry in entries)
        case {"dict": dict(entries)} if all(isinstance(key, str) for key in entries):
            return {key: _rebuilt(entry, device) for key, entry in entries.items()}
    raise SurgeryError(f"{str(data)[:60]} does not describe an input")
