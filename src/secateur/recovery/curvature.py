"""The curvature of a layer as the Kronecker product of two second moments, and its inverse.

With the inputs ``x`` that a layer reads and the gradients ``g`` at what it makes, of some function of the network's
outputs, the curvature in the layer's weights is about ``E[g g^T] (x) E[x x^T]`` (Martens and Grosse, "Optimizing neural
networks with Kronecker-factored approximate curvature", 2015): two small matrices in place of one that none can hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.graph import Graph, Ref
from secateur.ground.devices import onto, single
from secateur.ground.processes import summed
from secateur.statistics.outlets import affine
from secateur.statistics.patches import Rows, read_rows

from .jobs import Job

__all__ = ["Blocks", "Curvature", "Movable", "Preconditioner", "movable"]

POSITIONS = 64  # of a sample, at which moments are taken
WIDEST = 4096  # columns; of more, only the mean square of each counts
DAMPING = 1e-3  # of the mean diagonal of moments of inputs
SOFTENING = 3e-2  # of that of gradients, of which fewer are independent

Blocks = tuple[Tensor, ...]
"""A change of each layer, (g, m, d + 1): its weights, and last what is added to its output."""


@dataclass(frozen=True)
class Movable:
    """A layer in its small shapes, (g, m, d), and what takes a constant that is added to its output."""

    job: Job
    g: int
    m: int
    intercept: str | None  # its bias, or the shift of the BatchNorm behind it
    factor: Tensor  # (g * m,) of the constant, on its way there

    def changed(self, tensors: Mapping[str, Tensor], change: Tensor) -> dict[str, Tensor]:
        """Return the layer's tensors after a change (g, m, d + 1)."""
        layer, weight = self.job.layer, tensors[self.job.layer.weight]
        other = change[..., :-1]
        if layer.inputs_first:
            taps = weight.shape[2:]
            other = other.unflatten(2, (-1, taps.numel())).transpose(1, 2)
        found = {layer.weight: weight + other.reshape(weight.shape).to(weight.dtype)}
        if self.intercept is not None:
            value = tensors[self.intercept]
            found[self.intercept] = value + (self.factor * change[..., -1].flatten()).to(value.dtype)
        return found


def movable(graph: Graph, job: Job, small: Mapping[str, Tensor]) -> Movable | None:
    """Return a layer that can be moved, or None where its small weight is not laid out by its groups."""
    g, m = job.outputs.shape
    if small[job.layer.weight].numel() != g * m * job.width:
        return None
    intercept, factor = job.layer.bias, torch.ones(g * m, device=small[job.layer.weight].device)
    behind = affine(job.outlet.batch_norm, graph, small)
    if behind is not None and job.outlet.batch_norm is not None:
        shift = job.outlet.batch_norm.args[2]
        intercept = graph.program.parameters[shift.name][0] if isinstance(shift, Ref) else None
        factor = behind.scale
    fits = intercept is not None and small[intercept].numel() == g * m == factor.numel()
    return Movable(job, g, m, intercept if fits else None, factor)


class Curvature:
    """Second moments of what a layer reads and of the gradients at what it makes, at some positions."""

    def __init__(
        self, layer: Movable, width: tuple[int, int, int], device: torch.device | None = None
    ) -> None:
        g, m, d = width
        self.layer = layer
        self._narrow = d <= WIDEST
        # On the processor, if the device of what is read has no float64 (see `moments_device`).
        self._inputs = torch.zeros((g, d, d) if self._narrow else (g, d), dtype=torch.float64, device=device)
        self._gradients = torch.zeros(g, m, m, dtype=torch.float64, device=device)
        self._count = 0

    def begin(self, generator: torch.Generator) -> None:
        """Start a batch: draw the output positions that count."""
        self._rows = Rows.draw(math.prod(self.layer.job.layer.positions), POSITIONS, generator)

    def read(self, args: tuple[Any, ...], result: None) -> None:
        """Add what the layer reads, a watch of its call."""
        job = self.layer.job
        with torch.no_grad():
            x = read_rows(job.layer, args[job.layer.position].detach(), self._rows, groups=self.layer.g)
            x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2)
            x = single(x)
            self._inputs += onto(x.mT @ x if self._narrow else (x**2).sum(1), self._inputs)
            self._count += x.shape[1]

    def make(self, args: tuple[Any, ...], result: Tensor) -> None:
        """Remember what the layer makes, a watch of its call: the gradient is to be taken there."""
        self.result = result

    def add(self, gradient: Tensor) -> None:
        """Add the gradient at what the layer makes."""
        rows = gradient.flatten(0, -2) if not self.layer.job.layer.taps else self._chosen(gradient)
        blocks = rows.unflatten(1, (self.layer.g, self.layer.m)).movedim(1, 0)
        blocks = single(blocks)
        self._gradients += onto(blocks.mT @ blocks, self._gradients)

    def inverses(self) -> tuple[Tensor, Tensor]:
        """Return the inverses of both moments, (g, d, d) or (g, d), and (g, m, m); the second up to a factor."""
        tiny = torch.finfo(torch.float64).tiny
        inputs = summed(self._inputs) / max(int(summed(torch.tensor(self._count))), 1)
        gradients = summed(self._gradients)
        gradients = gradients / gradients.diagonal(dim1=1, dim2=2).mean().clamp_min(tiny)
        left = (
            _inverse(inputs, DAMPING)
            if self._narrow
            else 1 / (inputs + DAMPING * inputs.mean(1, keepdim=True) + tiny)
        )
        return left.float(), _inverse(gradients, SOFTENING).float()

    def _chosen(self, gradient: Tensor) -> Tensor:
        """Return the gradient (N, M, *space) at the positions that count, (N * rows, M)."""
        flat = gradient.flatten(2)
        if self._rows.index is not None:
            flat = flat[:, :, self._rows.index.to(flat.device)]
        return flat.movedim(1, 2).flatten(0, 1)


@dataclass(frozen=True)
class Preconditioner:
    """Applies the inverse of each layer's curvature."""

    inverses: Sequence[tuple[Tensor, Tensor]]
    scales: Sequence[float]

    def __call__(self, changes: Blocks) -> Blocks:
        """Return other changes, each layer's by its own inverse."""
        found = []
        for change, (inputs, gradients), scale in zip(changes, self.inverses, self.scales, strict=True):
            inputs, gradients = inputs.to(change.device), gradients.to(change.device)
            other = change @ inputs if inputs.ndim == 3 else change * inputs[:, None]
            found.append(scale * (gradients @ other))
        return tuple(found)


def _inverse(moments: Tensor, damping: float) -> Tensor:
    """Return the inverses of some moments (g, d, d), damped by a share of the mean of their diagonals."""
    unit = moments.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)[:, None, None]
    eye = torch.eye(moments.shape[-1], dtype=torch.float64, device=moments.device)
    inverse: Tensor = torch.linalg.inv(moments / unit + damping * eye)
    return inverse / unit
