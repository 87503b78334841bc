"""Parameters, multiply-accumulates and bytes on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.ground.inputs import Example, Inputs
from secateur.ground.modes import evaluating, without_fastpath

__all__ = ["Size", "macs", "parameters", "size", "stored_bytes"]


@dataclass(frozen=True)
class Size:
    """What a network costs, whatever it runs on."""

    params: int
    macs: int  # for the example inputs, their batch included
    bytes: int  # of its tensors as one safetensors file


def parameters(model: nn.Module) -> int:
    """Count the parameters; shared ones count once.

    >>> parameters(nn.Linear(3, 2))
    8
    """
    return sum(p.numel() for p in model.parameters())


def stored_bytes(model: nn.Module) -> int:
    """Return the size of the safetensors file of the model's parameters and buffers; shared tensors are stored once."""
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[object, ...]] = set()
    # The state dict makes new tensor objects, but shared parameters keep their memory.
    for name, value in model.state_dict().items():
        memory = (value.data_ptr() or name, value.shape, value.stride(), value.dtype)
        if memory not in seen:
            seen.add(memory)
            tensors[name] = value
    return file_size(tensors)


def file_size(tensors: Mapping[str, Tensor]) -> int:
    """Return the size of a safetensors file without making it: eight bytes, the header in eights, all values.

    The library says in which order it would write and what it calls the types; where each tensor lies is added up.
    """
    empty = save({name: value.new_empty(0) for name, value in tensors.items()})
    header: dict[str, dict[str, object]] = json.loads(empty[8 : 8 + int.from_bytes(empty[:8], "little")])
    end = 0
    for name, entry in header.items():
        start, end = end, end + tensors[name].nbytes
        entry |= {"shape": list(tensors[name].shape), "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + math.ceil(length / 8) * 8 + end


def macs(model: nn.Module, inputs: Example) -> int:
    """Count the multiply-accumulates of convolutions, matrix products, attention and recurrent layers in a forward.

    They are half of what ``torch.utils.flop_counter`` reports, which is told of the calls that only a CPU makes;
    element-wise work is not counted.

    >>> macs(nn.Linear(3, 2), (torch.zeros(5, 3),))
    30
    """
    # Not inference mode: there, composite operators such as linear reach the counter undecomposed.
    given = Inputs.of(inputs).detached()
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    with evaluating(model), _leaves_without_gradients(model), without_fastpath(), torch.no_grad(), counter:
        given(model)
    return int(counter.get_total_flops()) // 2


def _attention(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object
) -> int:
    """Count the products of fused attention: all queries with all keys, and the weights with all values."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _lstm(inputs: Sequence[int], read: Sequence[int], kept: Sequence[int], *_: object, **__: object) -> int:
    """Count one direction of one layer, which oneDNN runs as one call: two matrix products at each position."""
    return 2 * math.prod(inputs[:-1]) * (math.prod(read) + math.prod(kept))


_FORMULAS: dict[Any, Callable[..., int]] = {  # torch's counter has none for these, which are of CPUs
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten.mkldnn_rnn_layer: _lstm,
}


@contextmanager
def _leaves_without_gradients(model: nn.Module) -> Iterator[None]:
    """Keep torch's module tracker from hooking parameters that are handed to modules: no gradient is recorded here."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


def size(model: nn.Module, inputs: Example) -> Size:
    """Count everything at once."""
    return Size(parameters(model), macs(model, inputs), stored_bytes(model))
