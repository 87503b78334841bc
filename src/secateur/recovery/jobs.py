"""What pruning touched: the layers to refit, in order, and which of their inputs and outputs are left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from secateur.graph import Graph, Kept, Layer
from secateur.ground.devices import moments_device, onto
from secateur.statistics.collect import fold
from secateur.statistics.outlets import Outlet, outlet, running_mean
from secateur.statistics.weights import as_stored, outputs_first

__all__ = ["Job", "aimed", "jobs", "masked"]


@dataclass(frozen=True)
class Job:
    """One layer that is refitted on what the pruned network feeds it.

    ``groups`` (g,) are the groups of a grouped convolution that are left, ``inputs`` (g, c) and ``outputs`` (g, m)
    the channels left in each, counted within the group; a plain layer has one group. They are on the processor.
    Parts of weights come as float64 where moments are solved: on the weight's device, or on the processor where that
    has no float64.
    """

    layer: Layer
    outlet: Outlet
    groups: Tensor
    inputs: Tensor
    outputs: Tensor
    intercept: str | None  # what takes a constant: the running mean of the BatchNorm behind it, or its bias
    fold: int = 1  # so many neighbouring inputs of a linear layer are one channel's positions, flattened

    @property
    def taps(self) -> int:
        """Number of taps of the layer's kernel."""
        return int(np.prod(self.layer.taps, dtype=int))

    @property
    def width(self) -> int:
        """Number of unknowns of each output, without the intercept."""
        return int(self.inputs.shape[1]) * self.taps

    def split(self, weight: Tensor) -> Tensor:
        """Return the part of a full weight that is left, (g, m, c * taps), float64."""
        whole = self._solved(weight, self.layer.width)
        part = whole[self.groups[:, None, None], self.outputs[:, :, None], self.inputs[:, None, :]]
        return part.flatten(2)

    def merge(self, weight: Tensor, part: Tensor) -> Tensor:
        """Return a copy of the full weight with `part` (g, m, c * taps) in place of what is left."""
        whole = self._whole(weight, self.layer.width).clone()
        index = (self.groups[:, None, None], self.outputs[:, :, None], self.inputs[:, None, :])
        whole[index] = onto(part.view(*part.shape[:2], self.inputs.shape[1], self.taps), weight)
        return as_stored(self.layer, whole.view(-1, self.layer.width, *self.layer.taps))

    def column_norms(self, weight: Tensor) -> Tensor:
        """Return the squared norm of the weights with which each dense input is read, (g, inputs)."""
        whole = self._solved(weight, self.layer.width // self.fold)
        return (whole[self.groups[:, None], self.outputs] ** 2).sum((1, 3))

    def recombined(self, weight: Tensor, mixing: Tensor) -> Tensor:
        """Return the dense weight with its inputs replaced by `mixing` (g, inputs, kept), as (g, m, kept * taps)."""
        whole = self._solved(weight, self.layer.width // self.fold)
        rows = whole[self.groups[:, None], self.outputs]  # (g, m, c, taps)
        return torch.einsum("gmct,gck->gmkt", rows, mixing).flatten(2)

    def _whole(self, weight: Tensor, width: int) -> Tensor:
        """Return a full weight as (groups of the layer, outputs, width, taps)."""
        g, m = self.layer.groups, self.layer.out_channels // self.layer.groups
        return outputs_first(self.layer, weight).reshape(g, m, width, -1)

    def _solved(self, weight: Tensor, width: int) -> Tensor:
        return self._whole(weight.to(moments_device(weight.device)), width).double()

    def channels(self) -> Tensor:
        """Return the output channels that are left, as channels of the whole layer, (g * m,)."""
        per_group = self.layer.out_channels // self.layer.groups
        return (self.groups[:, None] * per_group + self.outputs).reshape(-1)

    def input_channels(self) -> Tensor:
        """Return the input channels that are left, as channels of the whole layer, (g * c,)."""
        per_group = self.layer.in_channels // self.layer.groups
        return (self.groups[:, None] * per_group + self.inputs).reshape(-1)


def jobs(graph: Graph, kept: Kept, producers: bool, residual: bool) -> list[Job]:
    """Return the layers that a selection touches, front to back.

    Consumers have lost inputs; producers, which only lost outputs, are left out unless `producers` is true. A
    weight that several calls share, or one whose groups keep different numbers of channels, is not refitted.
    """
    calls = [layer.weight for layer in graph.layers]
    found = []
    for layer in graph.layers:
        if calls.count(layer.weight) > 1:
            continue
        survivors = _survivors(graph, layer, kept)
        if survivors is None:
            continue
        groups, inputs, outputs = survivors
        out = outlet(graph, layer)
        constant = running_mean(out.batch_norm, graph) if out.batch_norm is not None else layer.bias
        if not inputs.shape[1] and constant is None:
            continue
        lost_inputs = len(groups) * inputs.shape[1] < layer.in_channels
        lost_outputs = len(groups) * outputs.shape[1] < layer.out_channels
        if not (lost_inputs or (lost_outputs and producers)):
            continue
        found.append(Job(layer, out, groups, inputs, outputs, constant, fold(graph, layer)))
    return aimed(found, residual)


def aimed(found: list[Job], residual: bool) -> list[Job]:
    """Let the later one of two branches that meet repair the sum, if `residual`; the others aim at their own output."""
    last = {job.outlet.join: job for job in found if job.outlet.join is not None}
    return [
        job
        if residual and job.outlet.join is not None and last[job.outlet.join] is job
        else replace(job, outlet=job.outlet.alone())
        for job in found
    ]


def _survivors(graph: Graph, layer: Layer, kept: Kept) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the groups that are left, and the inputs and outputs that are left in each; None if they differ."""
    g = layer.groups
    first, second = (graph.surviving(layer.weight, dim, kept) for dim in (0, 1))
    per_group = (layer.in_channels if layer.inputs_first else layer.out_channels) // g
    rows = [first[(first >= i * per_group) & (first < (i + 1) * per_group)] - i * per_group for i in range(g)]
    left = [i for i in range(g) if len(rows[i])]
    if not left or len({len(rows[i]) for i in left}) > 1:
        return None
    split = torch.from_numpy(np.stack([rows[i] for i in left])).long()
    # The other dimension is that of one group; the one channel of a depthwise convolution always stays.
    common = torch.from_numpy(np.stack([second] * len(left))).long()
    inputs, outputs = (split, common) if layer.inputs_first else (common, split)
    return torch.tensor(left), inputs, outputs


def masked(graph: Graph, tensors: Mapping[str, Tensor], kept: Kept) -> dict[str, Tensor]:
    """Return the tensors with all that the removed units own set to zero, in the full shapes."""
    result = dict(tensors)
    for group in graph.groups:
        if group.id not in kept:
            continue
        stays = np.zeros(group.size + 1, dtype=bool)
        stays[list(kept[group.id])] = True
        stays[-1] = True  # owner -1: no unit of this group
        for s in group.slices:
            if s.parameter not in result:
                continue
            value = result[s.parameter]
            shape = [1] * value.ndim
            shape[s.dim] = -1
            mask = torch.from_numpy(stays[np.asarray(s.owner)]).view(shape).to(value.device)
            result[s.parameter] = torch.where(mask, value, torch.zeros_like(value))
    return result
