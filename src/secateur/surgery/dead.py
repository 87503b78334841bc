"""Units that can go without any change: those that nothing reads, and constants that can move into a bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.graph import Graph, Group, Kept, Layer
from secateur.graph.program import Ref
from secateur.graph.unread import read_by, sweep, unread
from secateur.statistics.outlets import outlet
from secateur.statistics.weights import outputs_first

from .constant import constants_read

__all__ = ["Settled", "settle"]

_SAME = 1e-6  # what rounding may make of one value at several positions, relative


@dataclass(frozen=True)
class Settled:
    """The dense network's tensors, in their shapes, after exact removal on paper, and the units that stay."""

    kept: Kept  # of the groups that lose units
    tensors: Mapping[str, Tensor]  # by canonical name
    folded: int  # units whose constant moved into a bias


def settle(graph: Graph, tensors: Mapping[str, Tensor]) -> Settled:
    """Fold constants and zero all that belongs to units that nothing reads, until nothing changes.

    A unit that is constant is folded where each consumer reads it alike at all its positions (no zero padding, or the
    constant is 0) and has a bias or a BatchNorm to take it: ``b += W c``, or ``running mean -= W c``. Others stay.
    A group that would lose everything keeps a unit unless it is a residual branch that can go as a whole.
    """
    now = dict(tensors)
    folded = 0
    while True:
        moved = _fold(graph, now)
        alive = {n: t != 0 for n, t in now.items() if n not in graph.program.buffers}
        left = sweep(graph, alive)
        fell = [n for n, a in alive.items() if not torch.equal(a, left[n])]
        for name in fell:
            now[name] = now[name].masked_fill(~left[name], 0)
        folded += moved
        if not moved and not fell:
            return Settled(_kept(graph, left), now, folded)


def _kept(graph: Graph, alive: Mapping[str, Tensor]) -> Kept:
    kept = {}
    for group in graph.groups:
        stays = ~unread(graph, group, alive)
        if not bool(stays.any()) and group.removable and group.kind != "head":
            kept[group.id] = ()
            continue
        needed = [*(sorted(s.units) for s in group.segments), list(range(group.size))]
        for units in needed:
            if not bool(stays[units].any()):
                stays[units[0]] = True
        if not bool(stays.all()):
            kept[group.id] = tuple(stays.nonzero().flatten().tolist())
    return kept


def _fold(graph: Graph, tensors: dict[str, Tensor]) -> int:
    """Move what constant units add into biases and zero the weights that read them; return how many units."""
    read = constants_read(graph, tensors)
    inputs = {
        layer.node: _Inputs.of(graph, layer, read[layer.node]) for layer in graph.layers if layer.node in read
    }
    total = 0
    changes: dict[str, tuple[Layer, Tensor]] = {}
    for group in graph.groups:
        units = _foldable(graph, group, inputs, tensors)
        total += int(units.sum())
        if not bool(units.any()):
            continue
        for site in group.consumers:
            layer = inputs[site.node].layer
            owner = torch.tensor(group.owner(site.parameter, site.dim))
            columns = units[owner.clamp_min(0)] & (owner >= 0)
            before = changes.get(site.node, (layer, torch.zeros_like(columns)))[1]
            changes[site.node] = (layer, before | columns)
    for node, (layer, columns) in changes.items():
        _move(graph, layer, columns, inputs[node].value, tensors)
    return total


@dataclass(frozen=True)
class _Inputs:
    """Which inputs of a layer are constants that can be folded, and their values."""

    layer: Layer
    ready: Tensor  # bool (inputs,)
    value: Tensor  # (inputs,)

    @staticmethod
    def of(graph: Graph, layer: Layer, x: Tensor) -> _Inputs:
        flat = x.movedim(layer.channel_dim if layer.taps else -1, 0).flatten(1)
        known = ~flat.isnan().any(1)
        value = torch.where(known, flat[:, 0], torch.zeros_like(flat[:, 0]))
        known &= (flat - value[:, None]).abs().amax(1).nan_to_num(torch.inf) <= _SAME * value.abs()
        alone = [other.weight for other in graph.layers].count(layer.weight) == 1 and layer.groups == 1
        anything = alone and _taker(graph, layer) is not None and not _padded(layer, x)
        ready = known if anything else known & (value == 0) & alone
        return _Inputs(layer, ready.cpu(), value)


def _foldable(
    graph: Graph, group: Group, inputs: Mapping[str, _Inputs], tensors: Mapping[str, Tensor]
) -> Tensor:
    """Return which units all consumers can do without, and at least one still reads, bool (size,)."""
    units = torch.ones(group.size, dtype=torch.bool)
    sites = {(site.parameter, site.dim): site for site in group.consumers}
    reads = torch.zeros(group.size, dtype=torch.bool)
    for s in read_by(group, graph.computed):
        site = sites.get((s.parameter, s.dim))
        found = inputs.get(site.node) if site is not None else None
        if found is None or s.dim != found.layer.in_dim or len(s.owner) != len(found.ready):
            return torch.zeros_like(units)
        owner = torch.tensor(s.owner)
        weight = outputs_first(found.layer, tensors[s.parameter])
        used = (weight != 0).transpose(0, 1).flatten(1).any(1).cpu() & (owner >= 0)
        units[owner[used & ~found.ready]] = False
        reads[owner[used]] = True
    return units & reads


def _move(graph: Graph, layer: Layer, columns: Tensor, value: Tensor, tensors: dict[str, Tensor]) -> None:
    weight = tensors[layer.weight]
    index = columns.nonzero().flatten().to(weight.device)
    rows = outputs_first(layer, weight).flatten(2).sum(2) if layer.taps else outputs_first(layer, weight)
    constant = rows[:, index].double() @ value[index].double()
    taker = _taker(graph, layer)
    if taker is not None and bool(constant.any()):
        sign = 1 if taker == layer.bias else -1
        tensors[taker] = (tensors[taker].double() + sign * constant).to(tensors[taker].dtype)
    tensors[layer.weight] = weight.index_fill(layer.in_dim, index, 0)


def _taker(graph: Graph, layer: Layer) -> str | None:
    """Return what can take a constant that a layer adds: its bias, or the running mean of the BatchNorm behind it."""
    name = layer.bias
    batch_norm = outlet(graph, layer).batch_norm
    if name is None and batch_norm is not None and isinstance(batch_norm.args[3], Ref):
        name = graph.program.parameters.get(batch_norm.args[3].name, (None,))[0]
    return name if name is not None and len(graph.program.readers[name]) == 1 else None


def _padded(layer: Layer, x: Tensor) -> bool:
    """Whether a convolution reads beyond its input (or a transposed one writes): constants are not alike then."""
    inner = zip(x.shape[2:], layer.taps, layer.stride, layer.dilation, strict=True) if layer.taps else ()
    whole = tuple((n - d * (t - 1) - 1) // s + 1 for n, t, s, d in inner)
    return layer.transposed or (bool(layer.taps) and whole != layer.positions)
