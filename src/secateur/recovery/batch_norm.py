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
from secateur.statistics.reduce import in_step, summed

__all__ = ["re_estimated"]


def re_estimated(graph: Graph, tensors: Mapping[str, Tensor], batches: Calibration) -> dict[str, Tensor]:
    """Return `tensors` with the running statistics re-estimated, or unchanged if that does not help.

    Three samples in four give the statistics; on the fourth the outputs must come closer to the dense network's
    (mean squared difference) than they are without. One pass, and one over the held-out samples; both sum over all
    processes of `torch.distributed`.
    """
    nodes = [
        n
        for n in graph.program.nodes
        if n.op == "batch_norm" and isinstance(n.args[3], Ref) and "/" not in n.name
    ]
    if not nodes or not batches.dynamic:
        return dict(tensors)
    names = {n.name: [graph.program.parameters[a.name][0] for a in n.args[3:5]] for n in nodes}
    sums = {
        node: torch.zeros(3, *tensors[mean].shape, dtype=torch.float64) for node, (mean, _) in names.items()
    }

    def add(node: str, mean: Tensor, variance: Tensor, count: int) -> None:
        if node in sums:
            sums[node] += count * torch.stack([mean, variance + mean**2, torch.ones_like(mean)]).double()

    with in_step():
        for flat, held in track(batches.held_out(), "re-estimating BatchNorm"):
            if not bool(held.all()):
                inputs = batches.take(flat, ~held)
                Forward(graph.program, tensors).run(inputs, {}, {}, whole=True, normalise=add)
    fresh = dict(tensors)
    for node, parameters in names.items():
        first, second, count = summed(sums[node])
        if not count.any():
            continue
        mean = first / count
        variance = (second / count - mean**2).clamp_min(0) * count / (count - 1).clamp_min(1)
        for name, value in zip(parameters, (mean, variance), strict=True):
            fresh[name] = value.to(tensors[name].dtype)
    before, after = _distances(graph, (tensors, fresh), batches)
    return fresh if after < before else dict(tensors)


def _distances(graph: Graph, candidates: Sequence[Mapping[str, Tensor]], batches: Calibration) -> list[float]:
    """Return how far each candidate's outputs are from the dense network's on the held-out samples."""
    dense = Forward(graph.program, state_tensors(graph.program))
    others = [Forward(graph.program, tensors) for tensors in candidates]
    total = torch.zeros(len(others), dtype=torch.float64)
    with in_step():
        for flat, held in batches.held_out():
            if bool(held.any()):
                inputs = batches.take(flat, held)
                expected = _floating(dense.run(inputs, {}, {}, whole=True))
                for i, other in enumerate(others):
                    found = _floating(other.run(inputs, {}, {}, whole=True))
                    total[i] += sum(float(((a - b) ** 2).sum()) for a, b in zip(expected, found, strict=True))
    distances: list[float] = summed(total).tolist()
    return distances


def _floating(outputs: Iterable[Any] | None) -> list[Tensor]:
    leaves = tree_leaves(list(outputs or ()))
    return [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]
