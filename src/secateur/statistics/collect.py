"""One pass over the calibration data: second moments of what each consumer reads, streamed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import CalibrationError
from secateur.graph import Graph, Group, Layer
from secateur.progress import track

from .batches import Calibration
from .forward import Forward, Watch, state_tensors
from .gradients import Loss, gate_gradients
from .outlets import outlet
from .patches import Rows, multiplicity, read_rows, sample_rows
from .reduce import digest, in_step, require_same, summed

__all__ = ["SiteStatistics", "Statistics", "collect"]


@dataclass(frozen=True)
class SiteStatistics:
    """Second moments of one value as one kind of window reads it, float64.

    ``fit`` and ``held`` (C, C) are channel moments over positions that the layer reads, each position counted as
    often as a tap reads it (C / fold of them, where flattened positions are pooled); ``gram`` and ``mean`` (C,)
    likewise. ``patches`` (groups, C / groups * taps + 1, same) are moments of whole patches with a constant one
    behind them, where they were asked for and fit.
    """

    fit: Tensor
    held: Tensor
    gram: Tensor  # over all samples, as the next two are
    mean: Tensor
    patches: Tensor | None


@dataclass(frozen=True)
class Statistics:
    """What one pass over calibration data says of the consumers of some groups.

    ``power`` is, by layer, the mean square about the mean, summed over channels, of the value in which its output
    counts: the residual sum that it enters, else its own output behind BatchNorm.
    """

    samples: int
    sites: Mapping[str, SiteStatistics]  # by layer node
    power: Mapping[str, float]
    tensors: Mapping[str, Tensor]  # the dense parameters and buffers, by canonical name
    gradients: Mapping[str, Tensor] = field(default_factory=dict)  # by group, see `gate_gradients`


def fold(graph: Graph, layer: Layer) -> int:
    """Return how many neighbouring inputs of a linear layer are positions of one channel that was flattened."""
    if layer.taps:
        return 1
    for group in graph.groups:
        if group.kind == "channel" and any(site.node == layer.node for site in group.consumers):
            owner = np.asarray(group.owner(layer.weight, layer.in_dim))
            run = int(np.argmax(owner != owner[0])) or len(owner)
            if (
                run > 1
                and len(owner) % run == 0
                and bool((owner.reshape(-1, run) == owner[::run, None]).all())
            ):
                return run
    return 1


class _Power:
    """Running first and second moments of a watched value, by channel."""

    def __init__(self, layer: Layer, positions: int) -> None:
        self.layer, self.positions = layer, positions
        self.sum, self.square = torch.zeros(2, layer.out_channels, dtype=torch.float64)
        self.count = 0

    def begin(self, generator: torch.Generator) -> None:
        """Start a batch: draw the positions that count."""
        self.rows = Rows.draw(math.prod(self.layer.positions), self.positions, generator)

    def __call__(self, args: tuple[Any, ...], result: Tensor) -> None:
        if self.layer.taps and self.rows.index is not None:
            result = result.flatten(2)[:, :, self.rows.index]
        dims = [d for d in range(result.ndim) if d != self.layer.channel_dim % result.ndim]
        self.sum = self.sum + result.sum(dims)
        self.square = self.square + (result * result).sum(dims)
        self.count += result.numel() // result.shape[self.layer.channel_dim]

    def value(self) -> float:
        """Return the power over all processes."""
        count = summed(torch.tensor(float(self.count), dtype=torch.float64)).clamp_min(1)
        mean = summed(self.sum) / count
        return float((summed(self.square) / count - mean**2).clamp_min(0).sum())


class _Site:
    """Running sums of one value under one kind of window."""

    def __init__(self, layer: Layer, patches: bool, positions: int, fold: int) -> None:
        self.layer, self.fold = layer, fold
        c = layer.in_channels // fold
        self.grams = torch.zeros(2, c, c, dtype=torch.float64)
        self.totals = torch.zeros(2, c, dtype=torch.float64)
        self.count = torch.zeros(2, dtype=torch.float64)
        self.patches: Tensor | None = None
        if patches:
            d = c // layer.groups * math.prod(layer.taps) + 1
            self.patches = torch.zeros(layer.groups, d, d, dtype=torch.float64)
        self.rows_seen = 0
        self.positions = positions
        self.weights: Tensor | None = None

    def begin(self, held: Tensor, generator: torch.Generator) -> None:
        """Start a batch whose held-out samples come last: draw the positions that count."""
        self.held, self._generator = held, generator
        self.rows = Rows.draw(math.prod(self.layer.positions), self.positions, generator)

    def __call__(self, args: tuple[Any, ...], result: None) -> None:
        x = args[self.layer.position].detach()
        rows, weight = self._read(x)
        held = sample_rows(self.held, len(rows))  # pieces of a sample may stand as samples of their own
        fitted = int((~held).sum())
        each = rows.shape[1] if weight is None else float(weight.sum())
        for i, part in enumerate((rows[:fitted], rows[fitted:])):
            weighted = part if weight is None else part * weight.to(part.dtype)[:, None]
            flat = weighted.reshape(-1, rows.shape[2])
            self.grams[i] += part.reshape(flat.shape).T @ flat
            self.totals[i] += flat.sum(0)
            self.count[i] += len(part) * each
        if self.patches is not None:
            p = read_rows(self.layer, x, self.rows)
            p = torch.cat([p, p.new_ones(*p.shape[:2], 1)], 2)
            self.patches += (p.mT @ p).double()
            self.rows_seen += p.shape[1]

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what is read, (samples, positions, C), and how often by position; None if all are read alike."""
        if not self.layer.taps:
            flat = x.reshape(len(x), -1, x.shape[-1])
            if self.fold > 1:
                flat = flat.unflatten(2, (-1, self.fold)).transpose(2, 3).flatten(1, 2)
            return flat, None
        if self.weights is None:
            weights = multiplicity(self.layer, tuple(x.shape[2:])).flatten()
            self.places, self.weights = weights.nonzero()[:, 0], weights[weights > 0]
        rows = Rows.draw(len(self.places), self.positions, self._generator)
        places = self.places if rows.index is None else self.places[rows.index]
        weight = self.weights if rows.index is None else self.weights[rows.index]
        flat = x.flatten(2).transpose(1, 2)
        if len(places) < flat.shape[1]:
            flat = flat[:, places]
        return flat, None if bool((weight == 1).all()) else weight

    def statistics(self) -> SiteStatistics:
        """Return the moments over all processes; where one of fit and held has no samples, it is the other."""
        count = summed(self.count)
        grams, totals = summed((self.grams + self.grams.mT) / 2), summed(self.totals)
        both = grams.sum(0) / count.sum().clamp_min(1)
        mean = totals.sum(0) / count.sum().clamp_min(1)
        fit, held = grams / count.clamp_min(1)[:, None, None]
        fit, held = fit if count[0] else held, held if count[1] else fit
        if not (torch.isfinite(both).all() and torch.isfinite(mean).all()):
            raise CalibrationError(
                f"The activations that {self.layer.module or self.layer.node} reads are not finite on the calibration "
                "data: check the inputs' preprocessing, and that the model itself gives finite outputs on them."
            )
        patches = None
        if self.patches is not None:
            rows = summed(torch.tensor(float(self.rows_seen), dtype=torch.float64))
            patches = summed(self.patches) / rows.clamp_min(1)
        return SiteStatistics(fit, held, both, mean, patches)


def collect(
    graph: Graph,
    groups: Iterable[Group],
    calibration: Iterable[Any],
    *,
    patches: bool = False,
    loss: Loss | None = None,
    layers: Iterable[str] = (),
    positions: int = 64,
    widest: int = 2400,
    seed: int = 0,
) -> Statistics:
    """Stream calibration data once through the dense program and sum what the consumers of `groups` read.

    Nothing of the size of an activation is kept. Moments are made in the activations' type batch by batch and
    summed in float64, over all processes of `torch.distributed`; one sample in four goes to the held-out sum. Values
    that several layers read in the same way are summed once. Of maps, `positions` positions of each sample count, drawn
    anew for each batch: neighbours say much the same, and all of them would cost more than the forward pass. With
    `patches`, moments of whole patches are summed as well, for layers whose patches are at most `widest` columns wide.
    A linear layer that reads more columns than that, of flattened maps, has the moments of the channels, positions
    pooled. `layers` names further layers, by node. With a `loss`, a pass of its own sums squared gradients.

    Raises:
        CalibrationError: the data are empty, do not fit the example, or make activations that are not finite; of
            several processes, the weights are not the same, or one has failed.
    """
    groups = tuple(groups)
    wanted = {site.node for group in groups for site in group.consumers}.union(layers)
    read = [layer for layer in graph.layers if layer.node in wanted]
    tensors = state_tensors(graph.program)
    keys = {layer.node: _key(layer) for layer in read}
    sites: dict[Any, _Site] = {}
    for layer in read:
        if keys[layer.node] not in sites:
            columns = layer.width * math.prod(layer.taps)
            narrow = columns <= widest
            pooled = 1 if columns <= widest else fold(graph, layer)
            sites[keys[layer.node]] = _Site(layer, patches and narrow, positions, pooled)
    powers: dict[str, _Power] = {}
    where = {}
    for layer in read:
        where[layer.node] = outlet(graph, layer).end
        powers.setdefault(where[layer.node], _Power(layer, positions))
    reads: dict[str, Watch] = {site.layer.node: site for site in sites.values()}
    forward = Forward(graph.program, tensors)
    require_same(digest(tensors), "weights", "load the same checkpoint in each before pruning")
    seen = torch.zeros((), dtype=torch.int64)
    with in_step():
        batches = Calibration(calibration, graph.program)
        for batch, held in track(batches.held_out(), "statistics"):
            generator = batches.generator(batch, seed)
            seen += len(held)
            order = held.argsort(stable=True)  # so that no part of an activation has to be copied
            batch, held = batches.take(batch, order), held[order]
            for site in sites.values():
                site.begin(held, generator)
            for power in powers.values():
                power.begin(generator)
            forward.run(batch, reads, dict(powers))
    samples = int(summed(seen))
    if not samples:
        raise CalibrationError(
            "The calibration data are empty in every process: give at least one batch of inputs."
        )
    done = {key: site.statistics() for key, site in sites.items()}
    return Statistics(
        samples,
        {layer.node: done[keys[layer.node]] for layer in read},
        {layer.node: powers[where[layer.node]].value() for layer in read},
        tensors,
        gate_gradients(graph, groups, calibration, loss) if loss is not None else {},
    )


def _key(layer: Layer) -> tuple[Any, ...]:
    window = (layer.transposed, layer.taps, layer.stride, layer.padding, layer.dilation)
    return (layer.value, *window, layer.groups)
