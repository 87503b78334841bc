"""Cost models: what a selection leaves of a network, in the unit of a budget."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Protocol

import torch

from secateur.graph import Graph, Kept

__all__ = ["COUNTS", "CostModel", "file_bytes", "macs", "params"]


class CostModel(Protocol):
    """What is left of a network after a selection; removing a unit never makes it more."""

    def __call__(self, graph: Graph, kept: Kept) -> float:
        """Return the cost of what stays; an empty selection keeps everything."""
        ...


def macs(graph: Graph, kept: Kept) -> float:
    """Return the multiply-accumulates that stay, for one sample."""
    return float(graph.total_macs(kept))


def params(graph: Graph, kept: Kept) -> float:
    """Return the number of parameters that stay."""
    return float(graph.params(kept))


def file_bytes(graph: Graph, kept: Kept) -> float:
    """Return the size of the safetensors file of the parameters and buffers that stay, header included.

    Behind a removed branch its batch norms still count, though surgery takes them out: a file is never larger
    than what is said here.
    """
    state, gone = graph.program.exported.state_dict, graph.orphans(kept)
    stored = {
        name: (shape, state[name].dtype)
        for name, shape in graph.shapes(kept).items()
        if name in state and name not in gone
    }
    dropped, weights = graph.dropped(kept), {**graph.program.exported.constants, **state}
    for layer in graph.layers:
        # What a removed branch adds to the stream stays as a constant; the calls in front of it leave nothing.
        if layer.node in dropped and any(layer.node in b.constants for b in graph.branches.values()):
            channels = len(graph.surviving(layer.weight, layer.out_dim, kept))
            shape = (1, channels, *[1] * len(layer.taps)) if layer.taps else (channels,)
            stored[f"{layer.module}.value"] = (shape, weights[layer.weight].dtype)
    return float(_header(stored) + sum(prod(shape) * dtype.itemsize for shape, dtype in stored.values()))


COUNTS: Mapping[str, CostModel] = {"macs": macs, "params": params, "bytes": file_bytes}
"""The cost models that need nothing but the graph, by the unit of a budget."""

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip


def _header(stored: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> int:
    """Return the length of a safetensors header: eight bytes, then JSON padded to a multiple of eight."""
    entries, start = {}, 0
    for name, (shape, dtype) in sorted(stored.items(), key=lambda item: (-item[1][1].itemsize, item[0])):
        end = start + prod(shape) * dtype.itemsize
        kind = _NAMES.get(dtype, "F8_E4M3FNUZ")  # the longest name there is
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": (start, end)}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8
