"""Which of a network's contributors stay: those that a neuron lives on, or the strongest of all layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum

import torch
from torch import Tensor

from secateur.graph import Graph, Layer
from secateur.graph.unread import unread
from secateur.statistics.activity import Contributions
from secateur.statistics.weights import as_stored, outputs_first
from secateur.training.masks import Masks

__all__ = [
    "Allocation",
    "Cut",
    "PivotRule",
    "above",
    "as_masks",
    "carrying",
    "ladder",
    "lifelines",
    "score",
    "select",
]


class PivotRule(StrEnum):
    """What happens at the contributor with which the share alpha is reached."""

    STAYS = "stays"
    """The paper: everything below its contribution goes, so it stays and so do those equal to it."""
    NEXT_GOES = "next goes"
    """The public code: the next contributor, and all not above that one, go; one goes even where all are needed."""


class Allocation(StrEnum):
    """Among which contributors the strongest are chosen."""

    NEURON = "neuron"
    """The paper: each neuron's or filter's own, so that all of them keep the same share of what flows in."""
    NETWORK = "network"
    """Those of all layers together, so that layers and neurons keep as many as they have strong ones."""


Cut = Callable[[Layer, Contributions], tuple[Tensor, Tensor | None]]
"""Says which inputs (outputs, contributors) and which biases (outputs,) of a layer stay, given their scores."""


def score(
    layer: Layer, found: Contributions, weight: Tensor, bias: Tensor | None, exponent: float
) -> Contributions:
    """Return ``m (a / mean a) ** exponent``: the size of each contributor, and how loud is what it passes on.

    m is the magnitude of a weight (of a kernel: the root mean square of its weights), a = c / m with c what it carries,
    and the mean is over those that are not zero already, so that layers can be compared. `exponent` = 1 ranks a
    neuron's inputs as c does, 0 by magnitude alone. `weight` and `bias` are as the layer holds them.
    """
    size = outputs_first(layer, weight).detach().double().abs().cpu().flatten(1)
    if found.inputs.shape != size.shape:  # kernels
        size = size.unflatten(1, (found.inputs.shape[1], -1)).square().mean(2).sqrt()
    alive = size > 0
    loud = torch.where(alive, found.inputs / size, 0.0)
    mean = loud.sum() / alive.sum().clamp_min(1)
    scale = mean.clamp_min(torch.finfo(mean.dtype).tiny)
    inputs = size * (loud / scale) ** exponent
    if found.bias is None or bias is None:
        return Contributions(inputs, None)
    size = bias.detach().double().abs().cpu()
    loud = torch.where(size > 0, found.bias / size, 0.0)
    return Contributions(inputs, size * (loud / scale) ** exponent)


def select(
    found: Contributions, alpha: float, pivot: PivotRule = PivotRule.STAYS
) -> tuple[Tensor, Tensor | None]:
    """Return which inputs (outputs, contributors) and which biases (outputs,) stay, neuron by neuron.

    With contributions s in descending order, p0 is the smallest p for which s_1 + ... + s_p reaches alpha times the
    sum of all (paper, section 3); all below s_p0 goes.

    >>> found = Contributions(torch.tensor([[5.0, 3.0, 1.0, 0.0]]), torch.tensor([1.0]))
    >>> select(found, 0.8)
    (tensor([[ True,  True, False, False]]), tensor([False]))
    >>> select(found, 0.81)
    (tensor([[ True,  True,  True, False]]), tensor([True]))
    """
    s = found.inputs if found.bias is None else torch.cat([found.inputs, found.bias[:, None]], 1)
    ordered = s.sort(1, descending=True).values
    reached = ordered.cumsum(1)
    below = (reached < alpha * reached[:, -1:]).sum(1, keepdim=True)  # p0 - 1
    if pivot is PivotRule.STAYS:
        stays = (s >= ordered.gather(1, below)) & (s > 0)
    else:
        stays = s > ordered.gather(1, (below + 1).clamp_max(s.shape[1] - 1))
    return (stays, None) if found.bias is None else (stays[:, :-1], stays[:, -1])


def above(found: Contributions, threshold: float) -> tuple[Tensor, Tensor | None]:
    """Return which inputs and which biases have at least that score, and more than none."""
    parts = (found.inputs, found.bias)
    inputs, bias = (None if s is None else (s >= threshold) & (s > 0) for s in parts)
    assert inputs is not None
    return inputs, bias


def ladder(scores: Iterable[Contributions]) -> Tensor:
    """Return all scores that are not zero, of inputs and biases, in descending order."""
    parts = [s.flatten() for found in scores for s in (found.inputs, found.bias) if s is not None]
    pool = torch.cat([torch.zeros(0, dtype=torch.float64), *parts])
    return pool[pool > 0].sort(descending=True).values


def carrying(steps: Tensor, alpha: float) -> float:
    """Return the score down to which the fewest of a ladder carry the share alpha of its sum.

    >>> carrying(torch.tensor([5.0, 3.0, 1.0, 1.0]), 0.8)
    3.0
    """
    reached = steps.cumsum(0)
    below = int((reached < alpha * reached[-1:]).sum())
    return float(steps[below]) if len(steps) else math.inf


def as_masks(layers: Iterable[Layer], scores: Mapping[str, Contributions], cut: Cut, masks: Masks) -> Masks:
    """Return what a cut leaves of each layer's parameters; one that several calls share stays if one needs it."""
    stays: dict[str, Tensor] = {}
    for layer in layers:
        inputs, bias = cut(layer, scores[layer.node])
        parts = {layer.weight: _entries(layer, inputs)}
        if layer.bias is not None and bias is not None and layer.bias in masks:
            parts[layer.bias] = bias
        for name, part in parts.items():
            stays[name] = stays[name] | part if name in stays else part
    return Masks({name: part.to(masks[name].device) for name, part in stays.items()})


def lifelines(
    graph: Graph, layers: Sequence[Layer], scores: Mapping[str, Contributions], masks: Masks
) -> Masks:
    """Return one contributor of every layer, in the form of its weight: its strongest whose output is read.

    They are chosen from the last layer to the first, each as if only those behind it were left: together they keep
    every layer in use.
    """
    kept = {layer.weight: torch.zeros(masks[layer.weight].shape, dtype=torch.bool) for layer in layers}
    for layer in reversed(layers):
        if bool(kept[layer.weight].any()):  # by another call of the same weight
            continue
        values = scores[layer.node].inputs
        read = _read(graph, layer, kept)
        values = values.masked_fill(~read[:, None], 0) if bool(read.any()) else values
        best = torch.zeros(values.shape, dtype=torch.bool)
        best.view(-1)[values.argmax()] = bool(values.max() > 0)
        kept[layer.weight] = _entries(layer, best)
    return Masks({name: mask.to(masks[name].device) for name, mask in kept.items()})


def _read(graph: Graph, layer: Layer, kept: Mapping[str, Tensor]) -> Tensor:
    """Return which of a layer's outputs the kept entries of weights read, (outputs,)."""
    read = torch.ones(layer.out_channels, dtype=torch.bool)
    if layer.inputs_first and layer.groups > 1:  # the dimension of its outputs repeats over groups
        return read
    for group in graph.groups:
        for s in group.slices:
            if (s.parameter, s.dim) == (layer.weight, layer.out_dim):
                owner = torch.tensor(s.owner)
                read &= (~unread(graph, group, kept))[owner.clamp_min(0)] | (owner < 0)
    return read


def _entries(layer: Layer, stays: Tensor) -> Tensor:
    """Return what stays of a layer's contributors (outputs, weights or kernels) in the form of its weight."""
    taps = math.prod(layer.taps)
    whole = stays.unflatten(1, (layer.width, -1)).expand(-1, -1, taps)
    return as_stored(layer, whole.reshape(stays.shape[0], layer.width, *layer.taps))
