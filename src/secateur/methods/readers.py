"""From a group and statistics to readers: what each consumer sees of the group's units."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from secateur.graph import Graph, Group, Layer, Site
from secateur.graph.adapters import Adapter
from secateur.statistics.collect import Statistics
from secateur.statistics.outlets import affine, outlet
from secateur.statistics.sums import SiteStatistics
from secateur.statistics.weights import outputs_first

from .ranking import Reader

__all__ = ["readers"]


def readers(
    graph: Graph, group: Group, statistics: Statistics, *, patches: bool = True, centred: bool = True
) -> list[Reader]:
    """Return a reader for each consumer of a group.

    With `centred`, moments are about the mean: a constant that goes is repaired by an intercept. Whole patches are
    used where they were collected (and `patches` is true), else channel moments with the taps as further rows of
    the weight. Consumers' weights are scaled by the BatchNorm behind them. A low-rank adapter that reads a value
    beside a layer is no reader of its own: the layer reads with the sum of both.
    """
    layers = {layer.node: layer for layer in graph.layers}
    read = {site.node for site in group.consumers}
    adapters = [a for a in graph.adapters if {a.base.node, a.down.node} <= read]
    beside = {a.down.node for a in adapters}
    found = []
    for site in group.consumers:
        if site.node in beside:
            continue
        layer, moments = layers[site.node], statistics.sites[site.node]
        device = moments.gram.device  # the processor, where the model's device has no float64
        columns = _unit_columns(group, site, layer).to(device)
        weight = outputs_first(layer, statistics.tensors[layer.weight].to(device).double())
        for adapter in adapters:
            if adapter.base.node == site.node:
                weight = weight + _low_rank(adapter, statistics.tensors).to(device).view_as(weight)
        scale = affine(outlet(graph, layer, with_adapters=True).batch_norm, graph, statistics.tensors)
        if scale is not None:
            weight = weight * scale.scale.to(device).double().view(-1, *[1] * (weight.ndim - 1))
        power = max(statistics.power[site.node], torch.finfo(torch.float64).tiny)
        use = patches and moments.patches is not None and layer.groups == 1
        read_as = _patch_reader if use else _channel_reader
        found.append(_told(read_as(layer, moments, weight, columns, power, centred), moments.seen))
    return found


def _told(reader: Reader, seen: bool) -> Reader:
    """Return a reader of whose inputs something is known.

    One that read constants alone loses nothing, for its bias repairs that. Of one that read nothing (an expert to which
    no sample was sent) nothing is known: its inputs count as white, so that a unit weighs what its weights do.
    """
    if reader.xx.diagonal().any():
        return reader
    if seen:
        return replace(reader, weight=torch.zeros_like(reader.weight))
    power = max(float(reader.weight.square().sum()), torch.finfo(torch.float64).tiny)
    return replace(
        reader, xx=torch.eye(len(reader.xx), dtype=torch.float64, device=reader.xx.device), power=power
    )


def _low_rank(adapter: Adapter, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the weight that an adapter adds to its layer's, (outputs, inputs * taps)."""
    up, down = (outputs_first(a, tensors[a.weight].double()).flatten(1) for a in (adapter.up, adapter.down))
    return adapter.scale * up @ down


def _unit_columns(group: Group, site: Site, layer: Layer) -> Tensor:
    """Return the input channels of each unit, (units, b), padded with the number of channels."""
    owner = group.owner(site.parameter, site.dim)
    owned: dict[int, list[int]] = defaultdict(list)
    # A weight with the inputs of one convolution group: the unit is that channel of every group.
    per_group = len(owner)
    for g in range(layer.in_channels // per_group):
        for i, unit in enumerate(owner):
            if unit >= 0:
                owned[unit].append(g * per_group + i)
    width = max(len(c) for c in owned.values())
    columns = torch.full((group.size, width), layer.in_channels, dtype=torch.long)
    for unit, channels in owned.items():
        columns[unit, : len(channels)] = torch.tensor(channels)
    return columns


def _patch_reader(
    layer: Layer, moments: SiteStatistics, weight: Tensor, columns: Tensor, power: float, centred: bool
) -> Reader:
    assert moments.patches is not None
    xx = moments.patches[0]
    mean = xx[-1, :-1]
    taps = (len(xx) - 1) // layer.in_channels
    d = layer.in_channels * taps
    spread = columns[:, :, None] * taps + torch.arange(taps, device=columns.device)
    spread = torch.where(columns[:, :, None] == layer.in_channels, torch.full_like(spread, d), spread)
    return Reader(_moments(xx[:-1, :-1], mean, centred), weight.flatten(1), spread.flatten(1), power)


def _channel_reader(
    layer: Layer, moments: SiteStatistics, weight: Tensor, columns: Tensor, power: float, centred: bool
) -> Reader:
    g = layer.groups
    pooled = layer.in_channels // len(moments.mean)
    weight = weight.reshape(len(weight), weight.shape[1] // pooled, -1)
    columns = columns[:, ::pooled] // pooled
    taps = weight.shape[2]
    rows = weight.reshape(g, weight.shape[0] // g, weight.shape[1], taps).permute(0, 1, 3, 2).flatten(1, 2)
    whole = rows.new_zeros(g, rows.shape[1], g, weight.shape[1])
    whole[torch.arange(g), :, torch.arange(g)] = rows
    return Reader(
        _moments(moments.gram, moments.mean, centred), whole.view(-1, len(moments.mean)), columns, power
    )


def _moments(gram: Tensor, mean: Tensor, centred: bool) -> Tensor:
    return gram - torch.outer(mean, mean) if centred else gram
