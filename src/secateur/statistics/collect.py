"""One pass over the calibration data: second moments of what each consumer reads, streamed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.graph import Graph, Group, Layer
from secateur.graph.batch import samples_inside
from secateur.ground.devices import moments_device
from secateur.ground.processes import digest, require_same

from .batches import Calibration
from .forward import Forward, state_tensors
from .gradients import Loss, gate_gradients
from .outlets import outlet
from .parts import ByPart, Event, Parts
from .sums import PowerSum, SiteStatistics, SiteSum

__all__ = ["Statistics", "collect", "fold", "reading"]


@dataclass(frozen=True)
class Statistics:
    """What one pass over calibration data says of the consumers of some groups.

    ``power`` is, by layer, that of the value in which its output counts (the residual sum that it enters, else its own
    output behind BatchNorm), see `PowerSum`.
    """

    samples: int
    sites: Mapping[str, SiteStatistics]  # by layer node
    power: Mapping[str, float]
    tensors: Mapping[str, Tensor]  # the dense parameters and buffers, by canonical name
    gradients: Mapping[str, Tensor] = field(default_factory=dict)  # by group, see `gate_gradients`
    # Forgets the moments that are there, if they can be summed again.
    release: Callable[[], None] = lambda: None


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
    memory: int = 1 << 31,
    seed: int = 0,
) -> Statistics:
    """Stream calibration data once through the dense program and sum what the consumers of `groups` read.

    Moments are made in the activations' type batch by batch and summed in float64, over all processes of
    `torch.distributed`; one sample in four goes to the held-out sum. Values that several layers read in the same way
    are summed once. Of maps, `positions` positions of each sample count, drawn anew for each batch: neighbours say
    much the same, and all of them would cost more than the forward pass. With `patches`, moments of whole patches are
    summed as well, for layers whose patches are at most `widest` columns wide. A linear layer that reads more columns
    than that, of flattened maps, has the moments of the channels, positions pooled. `layers` names further layers, by
    node. With a `loss`, a pass of its own sums squared gradients.

    Nothing of the size of an activation is kept if all moments fit into `memory` bytes. Else the network is gone
    through in parts, front to back: the moments of one part are there at a time, those of the next are summed when
    they are asked for, and between parts each batch keeps the values that cross the border. Asked for in the network's
    order, all parts together cost one pass.

    Raises:
        CalibrationError: the data are empty, do not fit the example, or make activations that are not finite; of
            several processes, the weights are not the same, or one has failed.
    """
    groups = tuple(groups)
    wanted = {site.node for group in groups for site in group.consumers}.union(layers)
    read = [layer for layer in graph.layers if layer.node in wanted]
    tensors = state_tensors(graph.program)

    def device(layer: Layer) -> torch.device:
        return moments_device(tensors[layer.weight].device)

    def site_sum(layer: Layer) -> Event[SiteSum]:
        columns = layer.width * math.prod(layer.taps)
        narrow = columns <= widest
        pooled = 1 if narrow else fold(graph, layer)
        size = 8 * 3 * (layer.in_channels // pooled) ** 2  # fit, held-out and all samples
        if patches and narrow:
            size += 8 * layer.groups * (columns + 1) ** 2
        inside = not layer.taps and samples_inside(graph.program, layer.value)
        return Event(
            layer.node,
            size,
            partial(SiteSum, layer, patches and narrow, positions, pooled, inside, device(layer)),
        )

    sites: dict[Any, Event[SiteSum]] = {}
    powers: dict[str, Event[PowerSum]] = {}
    keys = {layer.node: reading(layer) for layer in read}
    outlets = {layer.node: outlet(graph, layer, with_adapters=True) for layer in read}
    where = {node: found.end for node, found in outlets.items()}
    for layer in read:
        if keys[layer.node] not in sites:
            sites[keys[layer.node]] = site_sum(layer)
        end, relative = where[layer.node], outlets[layer.node].normalised
        powers.setdefault(end, Event(end, 0, partial(PowerSum, layer, positions, relative, device(layer))))
    forward = Forward(graph.program, tensors)
    require_same(digest(tensors), "weights", "load the same checkpoint in each before pruning")
    parts = Parts(
        forward,
        Calibration.of(calibration, graph.program),
        [*sites.values()],
        [*powers.values()],
        memory,
        seed,
    )
    return Statistics(
        parts.samples,
        ByPart({node: sites[key].node for node, key in keys.items()}, parts.site),
        ByPart(where, parts.power),
        tensors,
        gate_gradients(graph, groups, calibration, loss) if loss is not None else {},
        parts.release,
    )


def reading(layer: Layer) -> tuple[Any, ...]:
    """Return what layers that read the same value in the same way have in common."""
    window = (layer.transposed, layer.taps, layer.stride, layer.padding, layer.dilation)
    return (layer.value, *window, layer.groups)
