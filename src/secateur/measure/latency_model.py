"""The latency of any selection, from the times of single layers at some widths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateur.graph import Graph, Group, Kept
from secateur.graph.layers import Layer
from secateur.graph.program import references
from secateur.ground.devices import device_of
from secateur.ground.inputs import Example, Inputs

from .operation import Operation
from .timer import Timer

__all__ = ["Grid", "LatencyModel", "latency_model"]

# Calls that move no numbers: what they give shares the memory of what they read, or passes it on.
_FREE = frozenset({"alias", "chunk", "contiguous", "detach", "dropout", "expand", "expand_as", "feature_dropout",
                   "flatten", "lift_fresh_copy", "narrow", "permute", "reshape", "select", "slice", "split",
                   "split_with_sizes", "squeeze", "t", "to", "transpose", "unbind", "unflatten", "unsqueeze",
                   "view"})  # fmt: skip

_NORMS = frozenset({"batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"})


@dataclass(frozen=True)
class Grid:
    """Milliseconds at some widths: lines in between, and never less for a wider layer."""

    inputs: NDArray[np.float64]  # ascending
    outputs: NDArray[np.float64]
    ms: NDArray[np.float64]  # (inputs, outputs)

    @staticmethod
    def of(inputs: Sequence[int], outputs: Sequence[int], ms: Sequence[Sequence[float]]) -> Grid:
        """Return the grid of measured times: what noise made fall with the width is raised to what came before."""
        rising = np.maximum.accumulate(np.maximum.accumulate(np.array(ms, dtype=np.float64), 0), 1)
        return Grid(np.array(inputs, dtype=np.float64), np.array(outputs, dtype=np.float64), rising)

    def __call__(self, inputs: float, outputs: float) -> float:
        """Return the milliseconds at a width in between; outside the nearest edge.

        >>> Grid.of([1, 5], [2], [[1.0], [3.0]])(3, 2)
        2.0
        """
        along = [float(np.interp(outputs, self.outputs, row)) for row in self.ms]
        return float(np.interp(inputs, self.inputs, along))


@dataclass(frozen=True)
class _Timed:
    """A layer's grid, and the dense sizes that say how wide it is."""

    layer: Layer
    grid: Grid
    read: int  # elements of its input in the dense model
    made: int


@dataclass(frozen=True)
class LatencyModel:
    """Milliseconds of a network after a selection: a cost model (see `secateur.selection.CostModel`).

    The sum over its layers, interpolated between the widths that were timed; plus all other calls, by the number of
    elements that they touch (norms, and the rest as if element-wise) or by their multiply-accumulates (products of
    activations, at the mean rate of the layers); plus what is missing to the time of the whole dense model, which no
    selection changes. Where the sum alone exceeds that time, it is scaled down to it instead.
    """

    layers: tuple[_Timed, ...]
    rest: Mapping[str, tuple[str, ...]]  # other calls: whose outputs they touch, their own among them
    norms: frozenset[str]  # those of them that normalise
    products: tuple[str, ...]  # products of activations
    pointwise: Grid  # by elements
    normalising: Grid
    batch: float  # of the inputs / of the traced example
    rate: float  # ms per multiply-accumulate of a sample
    scale: float = 1.0
    overhead: float = 0.0

    def __call__(self, graph: Graph, kept: Kept) -> float:
        """Return the milliseconds for the inputs that the model was made for."""
        elements = graph.elements(kept)
        total = 0.0
        for timed in self.layers:
            layer = timed.layer
            if layer.node in elements:
                inputs = layer.in_channels * elements.get(layer.value, timed.read) / timed.read
                total += timed.grid(inputs, layer.out_channels * elements[layer.node] / timed.made)
        for node, touched in self.rest.items():
            if node in elements:
                count = max(elements.get(name, 0) for name in touched)
                curve = self.normalising if node in self.norms else self.pointwise
                total += curve(1, count * self.batch)
        if self.products:
            macs = graph.macs(kept)
            total += self.rate * sum(macs.get(node, 0) for node in self.products)
        return self.scale * total + self.overhead


def latency_model(
    model: nn.Module, graph: Graph, groups: Iterable[Group], inputs: Example, timer: Timer
) -> LatencyModel:
    """Time the layers of a model at the widths that some groups could give them, and the model as a whole.

    Layers of which one side can shrink are timed at nine widths, those of which both can at five by five. The batch
    is that of `inputs`, the dtype that of each weight.
    """
    owned = {(s.parameter, s.dim) for group in groups for s in group.slices}
    program = graph.program
    batch = Inputs.of(inputs).batch / program.batch if program.dynamic else 1.0
    plans = [_widths(graph, layer, owned, batch) for layer in graph.layers]
    dense, macs = graph.elements(), graph.macs()
    own = {layer.node for layer in graph.layers}
    rest = {
        n.name: tuple(r for r in (n.name, *references((n.args, n.kwargs))) if r not in program.parameters)
        for n in program.nodes
        if n.floating
        and n.name in dense
        and n.name not in own
        and n.name not in macs
        and n.op not in ("placeholder", "output", *_FREE)
    }
    largest = batch * max([1, *(max(dense.get(name, 0) for name in touched) for touched in rest.values())])
    counts = [4**k for k in range(4, math.ceil(math.log(max(largest, 4**4), 4)) + 1)]
    device = (device_of(model) or torch.device("cpu")).type
    elementwise, norms = (
        [Operation(op, n, device=device) for n in counts] for op in ("elementwise", "normalisation")
    )
    wanted = [*(o for plan in plans for row in plan for o in row), *elementwise, *norms]
    times = timer.operations(wanted, Inputs.of(inputs).batch)
    layers = tuple(
        _Timed(
            layer=layer,
            grid=Grid.of(
                [row[0].inputs for row in plan] if layer.groups == 1 else [layer.in_channels],
                [o.outputs for o in plan[0]],
                [[times[o] for o in row] for row in plan],
            ),
            read=max(prod(program.node(layer.value).tensor_shape()), 1),
            made=max(prod(layer.shape), 1),
        )
        for layer, plan in zip(graph.layers, plans, strict=True)
    )
    alone = sum(t.grid(t.layer.in_channels, t.layer.out_channels) for t in layers)
    draft = LatencyModel(
        layers=layers,
        rest=rest,
        products=tuple(name for name in macs if name not in own),
        norms=frozenset(name for name in rest if program.node(name).op in _NORMS),
        pointwise=Grid.of([1], counts, [[times[o] for o in elementwise]]),
        normalising=Grid.of([1], counts, [[times[o] for o in norms]]),
        batch=batch,
        rate=alone / max(sum(macs.get(name, 0) for name in own), 1),
    )
    (measured,), summed = timer.models([model], inputs), draft(graph, {})
    if summed > measured:
        return replace(draft, scale=measured / summed)
    return replace(draft, overhead=measured - summed)


def _widths(graph: Graph, layer: Layer, owned: set[tuple[str, int]], batch: float) -> list[list[Operation]]:
    """Return the operations to time: rows by input width, columns by output width."""
    source = graph.program.node(layer.value).tensor_shape()
    lead = layer.shape[: layer.channel_dim]
    tensors = {**graph.program.exported.constants, **graph.program.exported.state_dict}
    base = Operation(
        op=layer.op if layer.taps else "linear",
        rows=max(1, round(prod(lead) * batch)) if lead else 1,
        inputs=layer.in_channels,
        outputs=layer.out_channels,
        groups=layer.groups,
        size=source[layer.channel_dim + 1 :],
        kernel=layer.taps,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        dtype=str(tensors[layer.weight].dtype).removeprefix("torch."),
        device=tensors[layer.weight].device.type,
    )
    narrows, shrinks = ((layer.weight, dim) in owned for dim in (layer.in_dim, layer.out_dim))
    if layer.groups > 1:  # whole convolution groups go, as those of a depthwise convolution do
        read, made = layer.width, layer.out_channels // layer.groups
        left = _steps(layer.groups, 8 if shrinks or narrows else 0)
        return [[replace(base, inputs=n * read, outputs=n * made, groups=n) for n in left]]
    fine = 4 if narrows and shrinks else 8
    return [
        [replace(base, inputs=i, outputs=o) for o in _steps(layer.out_channels, fine if shrinks else 0)]
        for i in _steps(layer.in_channels, fine if narrows else 0)
    ]


def _steps(width: int, steps: int) -> list[int]:
    """Return so many even steps up to a width, and one unit in front of them.

    >>> _steps(64, 4), _steps(3, 8), _steps(64, 0)
    ([1, 16, 32, 48, 64], [1, 2, 3], [64])
    """
    return sorted({max(1, math.ceil(width * k / steps)) for k in range(steps + 1)}) if steps else [width]
