"""How far a network with other tensors is from the dense one, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.graph import Graph, Layer
from secateur.statistics import Forward, state_tensors
from secateur.statistics.outlets import outlet

__all__ = ["errors_at", "outlet_node", "values_at"]


def outlet_node(graph: Graph, layer: Layer) -> str:
    """Return the node in which a layer's output counts: the residual sum, the BatchNorm behind it, or itself."""
    out = outlet(graph, layer)
    return out.join or (out.batch_norm.name if out.batch_norm else layer.node)


def values_at(graph: Graph, node: str, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return a node's output."""
    seen: list[Tensor] = []
    Forward(graph.program, tensors).run([x], {}, {node: lambda _, result: seen.append(result.clone())})
    return seen[0]


def errors_at(graph: Graph, layer: Layer, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return the mean squared difference from the dense network where a layer's output counts, by channel."""
    node = outlet_node(graph, layer)
    dense = values_at(graph, node, state_tensors(graph.program), x)
    found = values_at(graph, node, tensors, x)
    dims = [d for d in range(dense.ndim) if d != layer.channel_dim]
    return ((found.double() - dense.double()) ** 2).mean(torch.Size(dims))
