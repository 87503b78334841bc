"""How far a network with other tensors is from the dense one, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.graph import Graph, Layer
from secateur.statistics import Forward, state_tensors
from secateur.statistics.outlets import outlet

__all__ = ["errors_at", "values_at"]


def values_at(graph: Graph, node: str, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return a node's output."""
    seen: list[Tensor] = []
    Forward(graph.program, tensors).run([x], {}, {node: lambda _, result: seen.append(result.clone())})
    return seen[0]


def errors_at(
    graph: Graph,
    layer: Layer,
    tensors: Mapping[str, Tensor],
    x: Tensor,
    node: str | None = None,
    rectified: bool = False,
) -> Tensor:
    """Return the mean squared difference from the dense network at a node, by the layer's output channel.

    If it is rectified, where the dense value is below zero anything below zero is no difference.
    """
    node = node or outlet(graph, layer).end
    dense = values_at(graph, node, state_tensors(graph.program), x).double()
    found = values_at(graph, node, tensors, x).double()
    difference = torch.where(dense > 0, found - dense, found.relu()) if rectified else found - dense
    return (difference**2).movedim(layer.channel_dim, 0).flatten(1).mean(1)
