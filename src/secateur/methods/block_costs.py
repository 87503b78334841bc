"""What it costs to zero or to unify a block: by the weights alone, or by what the layer's outputs lose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from secateur.blocks import Costs, Partition, block_costs
from secateur.graph import Graph, Layer
from secateur.statistics.collect import Statistics
from secateur.statistics.outlets import affine, outlet
from secateur.statistics.sums import SiteStatistics

__all__ = ["Criterion", "OutputError", "WeightError"]


class Criterion(Protocol):
    """Prices blocks."""

    @property
    def calibrated(self) -> bool:
        """Whether it looks at statistics."""
        ...

    def __call__(
        self,
        graph: Graph,
        partitions: Mapping[str, Partition],
        tensors: Mapping[str, Tensor],
        statistics: Statistics | None,
    ) -> dict[str, Costs]:
        """Return the costs of each weight's blocks."""
        ...


@dataclass(frozen=True)
class WeightError:
    """The squared error of the weights, as in the Euclidean projection."""

    calibrated = False

    def __call__(
        self,
        graph: Graph,
        partitions: Mapping[str, Partition],
        tensors: Mapping[str, Tensor],
        statistics: Statistics | None,
    ) -> dict[str, Costs]:
        """Return the costs of each weight's blocks."""
        return {name: block_costs(partition, tensors[name].cpu()) for name, partition in partitions.items()}


@dataclass(frozen=True)
class OutputError:
    """The squared error of the layer's outputs, behind BatchNorm, from second moments of what it reads.

    With `repaired`, zeroing a block costs what is left after the best repair by the other weights of its rows
    (optimal brain surgeon: ``w_B ([H^-1]_BB)^-1 w_B^T``), with a ridge of `damping` times the mean diagonal; without,
    ``w_B H_BB w_B^T``. A layer's own outputs are not the network's: on ResNet-20 `WeightError` chooses better
    (``python benchmarks/microstructure.py --tune``). Weights without moments, and those that several calls share, are
    priced by `WeightError`.
    """

    repaired: bool = True
    damping: float = 1e-2
    calibrated = True

    def __call__(
        self,
        graph: Graph,
        partitions: Mapping[str, Partition],
        tensors: Mapping[str, Tensor],
        statistics: Statistics | None,
    ) -> dict[str, Costs]:
        """Return the costs of each weight's blocks."""
        found = WeightError()(graph, partitions, tensors, statistics)
        calls = [layer.weight for layer in graph.layers]
        for layer in graph.layers:
            if layer.weight not in partitions or calls.count(layer.weight) > 1 or statistics is None:
                continue
            site = statistics.sites.get(layer.node)
            if site is not None:
                moments = _moments(layer, site)
                weight = tensors[layer.weight].to(moments.device).double()
                scale = affine(outlet(graph, layer).batch_norm, graph, tensors)
                found[layer.weight] = self._costs(
                    partitions[layer.weight],
                    layer,
                    weight,
                    moments,
                    None if scale is None else scale.scale.to(weight.device).double(),
                )
        return found

    def _costs(
        self, partition: Partition, layer: Layer, weight: Tensor, H: Tensor, scale: Tensor | None
    ) -> Costs:
        group, column, output = (place.to(weight.device) for place in _places(layer, partition))
        if scale is not None:
            # Each output counts as its BatchNorm scales it.
            weight = weight * scale.abs()[output]
        blocks = partition.blocks(weight).flatten(5)  # (*grid, rows, n)
        g, c = (partition.blocks(x).flatten(5) for x in (group, column))
        inside = partition.blocks(torch.ones_like(weight)).flatten(5)
        entries = partition.entries().to(weight.device)[..., None, None]
        size = blocks.abs().sum((-2, -1), keepdim=True) / entries
        moved = (blocks - torch.where(blocks < 0, -size, size)) * inside
        ridge = self.damping * H.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
        eye = torch.eye(H.shape[-1], dtype=torch.float64, device=H.device)
        H = H + ridge[:, None, None] * eye
        unify = _quadratic(moved, _part(H, g, c))
        energy = _quadratic(blocks, _part(H, g, c))
        zero = energy
        if self.repaired:
            inverse = _part(torch.cholesky_inverse(torch.linalg.cholesky(H)), g, c)
            # Beyond the edges: a system of its own, of weights that are zero.
            outside = torch.diag_embed(1 - inside)
            within = inside[..., :, None] * inside[..., None, :]
            zero = (blocks * torch.linalg.solve(inverse * within + outside, blocks[..., None])[..., 0]).sum(
                (-2, -1)
            )
        zero, unify, energy = (cost.flatten().cpu() for cost in (zero, unify, energy))
        return Costs(zero, torch.minimum(unify, zero), energy)


def _quadratic(x: Tensor, H: Tensor) -> Tensor:
    """Return ``x H x^T`` of each block, summed over its rows."""
    return (x * (H @ x[..., None])[..., 0]).sum((-2, -1))


def _part(H: Tensor, group: Tensor, column: Tensor) -> Tensor:
    """Return the moments of the columns of each row of each block, (..., rows, n, n)."""
    return H[group[..., :, None], column[..., :, None], column[..., None, :]]


def _places(layer: Layer, partition: Partition) -> tuple[Tensor, Tensor, Tensor]:
    """Return convolution group, column and output channel of each weight, int64, of the weight's shape."""
    g = layer.groups
    m, width, taps = layer.out_channels // g, layer.width, math.prod(layer.taps)
    groups = torch.arange(g).view(g, 1, 1, 1).expand(g, m, width, taps)
    columns = torch.arange(width * taps).view(1, 1, width, taps).expand(g, m, width, taps)
    outputs = torch.arange(g * m).view(g, m, 1, 1).expand(g, m, width, taps)

    def stored(split: Tensor) -> Tensor:
        return (split.transpose(1, 2) if partition.inputs_first else split).reshape(partition.shape)

    return stored(groups), stored(columns), stored(outputs)


def _moments(layer: Layer, site: SiteStatistics) -> Tensor:
    """Return the second moments about the mean of what each group reads, (g, columns, columns)."""
    if site.patches is not None:
        mean = site.patches[:, -1, :-1]
        return site.patches[:, :-1, :-1] - mean[:, :, None] * mean[:, None, :]
    # Taps, or flattened positions, are taken to be alike and apart from one another.
    gram = site.gram - torch.outer(site.mean, site.mean)
    whole = layer.width * math.prod(layer.taps)
    channels = len(gram) // layer.groups
    parts = torch.stack([gram[i : i + channels, i : i + channels] for i in range(0, len(gram), channels)])
    return torch.stack(
        [
            torch.kron(part, torch.eye(whole // channels, dtype=part.dtype, device=part.device))
            for part in parts
        ]
    )
