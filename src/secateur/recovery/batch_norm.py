"""BatchNorm re-estimation: running statistics of the pruned network, kept where they bring its outputs closer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from secateur.graph import Graph, Ref
from secateur.progress import track
from secateur.statistics.batches import Calibration
from secateur.statistics.forward import Forward, state_tensors

__all__ = ["re_estimated"]


def re_estimated(graph: Graph, tensors: Mapping[str, Tensor], batches: Calibration) -> dict[str, Tensor]:
    """Return `tensors` with the running statistics re-estimated, or unchanged if that does not help.

    Three samples in four give the statistics; on the fourth the outputs must come closer to the dense network's
    (mean squared difference) than they are without. One pass, and one over the held-out samples.
    """
    nodes = [
        n
        for n in graph.program.nodes
        if n.op == "batch_norm" and isinstance(n.args[3], Ref) and "/" not in n.name
    ]
    if not nodes or not batches.dynamic:
        return dict(tensors)
    sums: dict[str, tuple[Tensor, Tensor, int]] = {}

    def add(node: str, mean: Tensor, variance: Tensor, count: int) -> None:
        m, v, n = sums.get(node, (torch.zeros_like(mean).double(), torch.zeros_like(mean).double(), 0))
        sums[node] = (m + count * mean.double(), v + count * (variance + mean**2).double(), n + count)

    for flat, held in track(batches.held_out(), "re-estimating BatchNorm"):
        if not bool(held.all()):
            Forward(graph.program, tensors).run(batches.take(flat, ~held), {}, {}, whole=True, normalise=add)
    fresh = dict(tensors)
    for node in nodes:
        if node.name in sums:
            first, second, count = sums[node.name]
            mean = first / count
            variance = (second / count - mean**2).clamp_min(0) * count / max(count - 1, 1)
            for argument, value in ((node.args[3], mean), (node.args[4], variance)):
                name = graph.program.parameters[argument.name][0]
                fresh[name] = value.to(tensors[name].dtype)
    before, after = _distances(graph, (tensors, fresh), batches)
    return fresh if after < before else dict(tensors)


def _distances(graph: Graph, candidates: Sequence[Mapping[str, Tensor]], batches: Calibration) -> list[float]:
    """Return how far each candidate's outputs are from the dense network's on the held-out samples."""
    dense = Forward(graph.program, state_tensors(graph.program))
    others = [Forward(graph.program, tensors) for tensors in candidates]
    total = [0.0] * len(others)
    for flat, held in batches.held_out():
        if bool(held.any()):
            inputs = batches.take(flat, held)
            expected = _floating(dense.run(inputs, {}, {}, whole=True))
            for i, other in enumerate(others):
                found = _floating(other.run(inputs, {}, {}, whole=True))
                total[i] += sum(float(((a - b) ** 2).sum()) for a, b in zip(expected, found, strict=True))
    return total


def _floating(outputs: Iterable[Any] | None) -> list[Tensor]:
    leaves = tree_leaves(list(outputs or ()))
    return [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]
