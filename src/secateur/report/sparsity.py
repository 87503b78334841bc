"""What connection pruning leaves: entries of parameters, and the bytes that a compressed file of them takes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from safetensors.torch import save
from torch import nn

from secateur.ground.tensors import tensor_names, tensors_of

__all__ = ["Sparsity", "zipped_bytes"]


@dataclass(frozen=True)
class Sparsity:
    """Connections and compressed sizes before and after. Neither says anything about speed."""

    before: int  # entries of all parameters
    after: int  # of them, not masked nor removed
    zip_before: int  # bytes of the safetensors file, deflated
    zip_after: int
    curve: tuple[
        tuple[float, float], ...
    ] = ()  # share of the connections and validation metric, as they were found


def zipped_bytes(model: nn.Module) -> int:
    """Return the size of the safetensors file of a model's parameters and buffers after deflate, as zip and gzip do."""
    known = tensors_of(model)
    tensors = {names[0]: known[names[0]].detach().contiguous() for names in tensor_names(model)}
    return len(zlib.compress(save(tensors), 9))
