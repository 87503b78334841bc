"""Parameters, multiply-accumulates and bytes on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.graph.export import export_program
from secateur.graph.flops import FORMULAS
from secateur.graph.macs import total
from secateur.graph.refusal import check_kind
from secateur.ground.errors import TraceError
from secateur.ground.inputs import Example, Inputs
from secateur.ground.modes import evaluating, without_fastpath
from secateur.ground.tensors import identity

__all__ = ["Size", "macs", "macs_of_a_run", "parameters", "size", "stored_bytes"]


@dataclass(frozen=True)
class Size:
    """What a network costs, whatever it runs on."""

    params: int
    macs: int  # for one sample
    bytes: int  # of its tensors as one safetensors file


def parameters(model: nn.Module) -> int:
    """Count the parameters; shared ones count once.

    >>> parameters(nn.Linear(3, 2))
    8
    """
    return sum(p.numel() for p in model.parameters())


def stored_bytes(model: nn.Module) -> int:
    """Return the size of the safetensors file of the model's parameters and buffers; shared tensors are stored once."""
    once: dict[Any, tuple[str, Tensor]] = {}
    for name, value in model.state_dict().items():
        once.setdefault(identity(value), (name, value))
    return file_size(dict(once.values()))


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
    """Count the multiply-accumulates for one sample: those of the traced program, by the rules of `secateur.graph`.

    Convolutions, matrix products, attention and recurrent layers count, element-wise work does not. A model that
    cannot be exported is run, and counted by `macs_of_a_run`.

    >>> macs(nn.Linear(3, 2), (torch.zeros(5, 3),))
    6
    """
    given = Inputs.of(inputs).beside(model)
    try:
        check_kind(model)
        return total(export_program(model, given.args, given.kwargs, batch_dims=given.dims()))
    except TraceError:
        return macs_of_a_run(model, given)


def macs_of_a_run(model: nn.Module, inputs: Example, samples: int | None = None) -> int:
    """Run a model on the inputs and count what torch's kernels multiply and add up, for one sample on average.

    `samples` is how many the inputs hold, by default `Inputs.batch`. The count is half of what
    ``torch.utils.flop_counter`` reports, which is told of the kernels that it does not know.
    """
    # Not inference mode: there, composite operators such as linear reach the counter undecomposed.
    given = Inputs.of(inputs).detached()
    counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
    with evaluating(model), _leaves_without_gradients(model), without_fastpath(), torch.no_grad(), counter:
        given(model)
    return int(counter.get_total_flops()) // 2 // (samples or given.batch)


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
