"""Which of a network's contributors stay: those that a neuron lives on, or the strongest of all layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum

import torch
from torch import Tensor

from secateur.graph import Graph, Layer
from secateur.graph.unread import read_by, unread
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
    scale = torch.where(mean > 0, mean, 1.0)
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
    """Return a few entries of each layer's weight that keep every layer in use when nothing else stays.

    The strongest contributor of each layer, the strongest that reads its output, and so on, to a unit that is read
    already or to what the network returns.
    """
    worth: dict[str, Tensor] = {}
    tiny = torch.finfo(torch.float64).tiny
    for layer in layers:
        alive = masks[layer.weight].cpu()
        whole = (
            _entries(layer, scores[layer.node].inputs) + tiny
        )  # one that carries nothing is better than none
        worth[layer.weight] = torch.maximum(whole * alive, worth.get(layer.weight, torch.tensor(0.0)))
    kernels = {x.weight for x in layers if x.taps and scores[x.node].inputs.shape[1] == x.width}
    kept = {name: torch.zeros(value.shape, dtype=torch.bool) for name, value in worth.items()}
    for layer in layers:
        name: str | None = layer.weight
        place = _largest(worth[layer.weight])
        if bool(kept[layer.weight].any()) or worth[layer.weight][place] == 0:
            continue
        while name is not None:
            kept[name][place[:2] if name in kernels else place] = True
            name, place = _reader(graph, layers, name, place, worth, kept)
    return Masks({name: mask.to(masks[name].device) for name, mask in kept.items()})


def _reader(
    graph: Graph,
    layers: Sequence[Layer],
    name: str,
    place: tuple[int, ...],
    worth: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
) -> tuple[str | None, tuple[int, ...]]:
    """Return the strongest entry that reads what an entry of a weight feeds; None if a kept one does, or none can."""
    dim = next(layer.out_dim for layer in layers if layer.weight == name)
    found: list[tuple[float, str, tuple[int, ...]]] = []
    for group in graph.groups:
        units = {s.owner[place[dim]] for s in group.slices if (s.parameter, s.dim) == (name, dim)} - {-1}
        for unit in units:
            if not bool(unread(graph, group, kept)[unit]):
                return None, place
            for s in read_by(group, graph.computed):
                if s.parameter in worth:
                    reads = torch.tensor(s.owner) == unit
                    value = worth[s.parameter]
                    value = value * reads.view([-1 if d == s.dim else 1 for d in range(value.ndim)])
                    at = _largest(value)
                    found.append((float(value[at]), s.parameter, at))
    best = max(found, default=(0.0, name, place))
    return (best[1], best[2]) if best[0] > 0 else (None, place)


def _largest(values: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(values.argmax(), values.shape))


def _entries(layer: Layer, values: Tensor) -> Tensor:
    """Return a value of each contributor (outputs, weights or kernels) in the form of a layer's weight."""
    taps = math.prod(layer.taps)
    whole = values.unflatten(1, (layer.width, -1)).expand(-1, -1, taps)
    return as_stored(layer, whole.reshape(len(values), layer.width, *layer.taps))
