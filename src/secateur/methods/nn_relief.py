"""NN-relief (arXiv 2109.10795): what a connection carries on real inputs says whether it stays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.graph import Graph, Layer
from secateur.graph.program import references
from secateur.graph.trace import traced
from secateur.graph.unread import sweep
from secateur.ground.errors import BudgetError, CalibrationError, TrainingError
from secateur.ground.inputs import Inputs
from secateur.ground.processes import in_step, processes
from secateur.statistics.activity import WORKSPACE, Activity, Contributions, Contributor, Norm, activity
from secateur.statistics.forward import state_tensors
from secateur.statistics.outlets import outlet
from secateur.training.masks import Masks
from secateur.training.parameters import unwrap

from .contributors import (
    Allocation,
    Cut,
    PivotRule,
    above,
    as_masks,
    carrying,
    ladder,
    lifelines,
    score,
    select,
)
from .kinds.weights import OfWeights

__all__ = ["Allocation", "NNRelief", "PivotRule", "Propagation"]

_HALVINGS = 30


class Propagation(StrEnum):
    """Which activations the next layer is scored on."""

    WHOLE = "whole"
    """The public code: those of the network before this pruning. One pass scores all layers."""
    PRUNED = "pruned"
    """Those that are left after pruning the layers before. One pass for every layer."""


@dataclass(frozen=True)
class NNRelief(OfWeights):
    """Keep the contributors that carry most on real inputs: the strongest of the network, or of every neuron.

    A contributor is a weight or a bias, and with `Contributor.KERNEL` of convolutions a whole kernel (one input channel
    of one filter). It carries its mean absolute activity over the first `samples` samples given; its score is its
    magnitude times the activity that it lets through, against the mean of its layer, to the power `exponent`: 1 goes
    by activity, 0 by magnitude alone. Then everything goes that only feeds units which nothing reads any more.

    With a share of the weights to keep, `Allocation.NETWORK` keeps the strongest of all layers, at least one in each;
    `Allocation.NEURON` raises the alphas to a common power until it fits. Without, the fewest stay that together carry
    the share alpha: of each neuron's, or of all convolutions' and all linear layers'. With `residual`, a channel of a
    layer that adds to a residual stream goes where it carries less than 1 - alpha of the sum, at the alpha given.
    Prune and train by turns: a few rounds reach what a single deep cut cannot.

    The defaults were chosen on held-out images of CIFAR-10; `NNRelief.paper()` is the paper; `norm`, `pivot` and
    `Training(rewind=...)` give what the public code does. Three things are ours there, too: a shortcut is never cut,
    nor the projection in its place, and a contributor that carries nothing never stays.

    Raises:
        ValueError: an alpha is not in (0, 1], `exponent` is negative, or a number is below 1.

    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> x = torch.rand(64, 4)
    >>> NNRelief().prune(net, Masks.full(net), 0.5, [x]).share <= 0.5
    True
    >>> masks = NNRelief.paper(alpha_linear=0.8).prune(net, Masks.full(net), None, [x])
    >>> masks.kept < masks.total
    True
    """

    alpha_conv: float = 0.95
    alpha_linear: float = 0.95
    contributor: Contributor = Contributor.WEIGHT
    allocation: Allocation = Allocation.NETWORK
    exponent: float = 0.25
    norm: Norm = Norm.MEAN_OF_NORMS
    pivot: PivotRule = PivotRule.STAYS
    propagation: Propagation = Propagation.WHOLE
    residual: bool = False
    samples: int = 1000
    empty_layers: bool = False
    workspace: int = WORKSPACE

    def __post_init__(self) -> None:
        for name in ("alpha_conv", "alpha_linear"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ValueError(
                    f"{name}={value} must be above 0 and at most 1: the share of activity that is kept."
                )
        if not 0 <= self.exponent < math.inf:
            raise ValueError(f"exponent={self.exponent} must be 0 (magnitude alone) or above (1: activity).")
        for name in ("samples", "workspace"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")

    @classmethod
    def paper(cls, alpha_conv: float = 0.95, alpha_linear: float = 0.95) -> NNRelief:
        """Return the method as published: kernels, neuron by neuron, by activity, and the rule for residual sums."""
        return cls(
            alpha_conv,
            alpha_linear,
            contributor=Contributor.KERNEL,
            allocation=Allocation.NEURON,
            exponent=1.0,
            residual=True,
        )

    @property
    def label(self) -> str:
        """What reports call it."""
        return "NN-relief"

    def prune(self, model: nn.Module, masks: Masks, share: float | None, batches: Iterable[Any]) -> Masks:
        """Return the next masks, within the given ones.

        `batches` yields inputs, or (inputs, labels) of which the labels are ignored; parameters without a mask stay
        whole. With a `share` as much as possible stays, at most that share of all entries of the masks. A model on
        several processes is scored on the samples of all of them.

        Raises:
            TraceError: the model cannot be exported.
            CalibrationError: the batches are empty, do not fit one another, or make values that are not finite.
            BudgetError: what always stays (one contributor of every layer, or of every neuron) is more than the share.
            TrainingError: a layer loses all its weights, and `empty_layers` is false.
        """
        inner = unwrap(model)
        with in_step():
            inputs = list(_first(batches, -(-self.samples // processes())))
            if not inputs:
                raise CalibrationError("There are no batches to score connections on: give at least one.")
            graph = _traced(inner, inputs[0])
        layers = [layer for layer in graph.layers if layer.weight in masks]
        tensors = _masked(state_tensors(graph.program), masks)
        found = self._activity(graph, layers, tensors, inputs)
        scores = self._scores(layers, found, tensors)
        network = self.allocation is Allocation.NETWORK
        floor = lifelines(graph, layers, scores, masks) if network and not self.empty_layers else None
        whole = self.propagation is Propagation.WHOLE

        def at(cut: Cut) -> Masks:
            left = masks
            for calls in [layers] if whole else _by_weight(layers):
                now = tensors if whole else _masked(tensors, left)
                seen = found if whole else self._activity(graph, calls, now, inputs)
                stays = as_masks(calls, scores if whole else self._scores(calls, seen, now), cut, masks)
                left = left & (stays if floor is None else _either(stays, floor))
                if self.residual:
                    left = left & _strong_channels(graph, calls, seen, self._alpha, masks)
            return Masks(sweep(graph, left))

        if share is None:
            result = at(self._as_asked(layers, scores))
        else:
            steps = self._powers() if self.allocation is Allocation.NEURON else _shares(scores)
            result = _largest(lambda level: at(steps(level)), share, self.allocation)
        if not self.empty_layers:
            _refuse_empty(layers, masks, result)
        return result

    def _activity(
        self, graph: Graph, layers: Sequence[Layer], tensors: Mapping[str, Tensor], inputs: list[Any]
    ) -> Activity:
        return activity(graph, layers, tensors, inputs, self.norm, self.workspace, self.contributor)

    def _scores(
        self, layers: Iterable[Layer], found: Activity, tensors: Mapping[str, Tensor]
    ) -> dict[str, Contributions]:
        def of(layer: Layer) -> Contributions:
            bias = None if layer.bias is None else tensors[layer.bias]
            carried = found.contributions[layer.node]
            return score(layer, carried, tensors[layer.weight], bias, self.exponent)

        return {layer.node: of(layer) for layer in layers}

    def _alpha(self, layer: Layer) -> float:
        return self.alpha_conv if layer.taps else self.alpha_linear

    def _as_asked(self, layers: Iterable[Layer], scores: Mapping[str, Contributions]) -> Cut:
        """Return the cut at the alphas as they are."""
        if self.allocation is Allocation.NEURON:
            return lambda layer, found: select(found, self._alpha(layer), self.pivot)
        kinds: dict[bool, list[Contributions]] = {}
        for layer in layers:
            kinds.setdefault(bool(layer.taps), []).append(scores[layer.node])
        alphas = {True: self.alpha_conv, False: self.alpha_linear}
        thresholds = {kind: carrying(ladder(found), alphas[kind]) for kind, found in kinds.items()}
        return lambda layer, found: above(found, thresholds[bool(layer.taps)])

    def _powers(self) -> Callable[[float], Cut]:
        """Return the cuts at the alphas to a power."""

        def at(power: float) -> Cut:
            return lambda layer, found: select(found, float(self._alpha(layer) ** power), self.pivot)

        return at


def _shares(scores: Mapping[str, Contributions]) -> Callable[[float], Cut]:
    """Return the cuts that keep the share ``2 ** -level`` of the contributors of all layers together."""
    steps = ladder(scores.values())

    def at(level: float) -> Cut:
        kept = int(0.5**level * len(steps))
        threshold = float(steps[kept - 1]) if kept else math.inf
        return lambda layer, found: above(found, threshold)

    return at


def _either(stays: Masks, floor: Masks) -> Masks:
    """Return what stays, or is kept in any case."""
    return Masks({name: mask | floor[name] if name in floor else mask for name, mask in stays.items()})


def _strong_channels(
    graph: Graph, layers: Iterable[Layer], found: Activity, alpha: Callable[[Layer], float], masks: Masks
) -> Masks:
    """Return what stays of the channels that enter a residual sum: all but those that carry next to nothing of it.

    Two contributors, the branch B and the other operand R: B goes where ``|B| / (|B| + |R|) < 1 - alpha``. The
    projection on a shortcut, which reads what the branch beside it begins with, is left whole.
    """
    left: dict[str, Tensor] = {}
    for layer in layers:
        share = found.shares.get(layer.node)
        if share is None or _projects(graph, layer):
            continue
        weak = (share < 1 - alpha(layer)) & (share < 0.5)
        for name, dim in _of_output(graph, layer):
            if name in masks:
                mask = left.setdefault(name, torch.ones_like(masks[name]))
                mask.index_fill_(dim, weak.nonzero().flatten().to(mask.device), False)
    return Masks(left)


def _projects(graph: Graph, layer: Layer) -> bool:
    """Say whether the other operand of a layer's residual sum is computed from what the layer reads."""
    out = outlet(graph, layer)
    if out.join is None:
        return False
    join = graph.program.node(out.join)
    [other] = references(join.args[out.operand])
    waiting, seen = [other], {other}
    while waiting:
        node = graph.program.node(waiting.pop())
        above = set(references((node.args, node.kwargs)))
        if layer.value in above:
            return True
        waiting += above - seen
        seen |= above
    return False


def _of_output(graph: Graph, layer: Layer) -> list[tuple[str, int]]:
    """Return the parameters, with the dimension, that make a layer's output channels nothing when they are zero."""
    if layer.inputs_first and layer.groups > 1:  # the dimension of its outputs repeats over groups
        return []
    found = [(layer.weight, layer.out_dim)] + ([(layer.bias, 0)] if layer.bias is not None else [])
    batch_norm = outlet(graph, layer).batch_norm
    if batch_norm is not None:
        names = (graph.program.parameters.get(getattr(a, "name", ""), ()) for a in batch_norm.args[1:3])
        found += [(group[0], 0) for group in names if group]
    return found


def _largest(at: Callable[[float], Masks], share: float, allocation: Allocation) -> Masks:
    """Return the masks at the lowest level that keeps at most `share`; a level keeps no more than a lower one."""
    low, high = 0.0, 1.0
    best = at(high)
    while best.share > share:
        low, high = high, 2 * high
        best = at(high)
        if high > 1e6:
            kept, asked = f"{best.share:.4g} of all masked entries", f"{share:.4g}"
            raise BudgetError(
                f"NN-relief keeps a contributor of every neuron that is read, {kept} in one round: {asked} takes more "
                "rounds, with training between them."
                if allocation is Allocation.NEURON
                else f"NN-relief keeps a contributor of every layer and all that is no weight or bias of one, {kept}: "
                f"{asked} is out of reach. Ask for more, or allow empty layers with NNRelief(empty_layers=True)."
            )
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        masks = at(middle)
        if masks.share > share:
            low = middle
        else:
            high, best = middle, masks
        if best.share > share * (1 - 1e-3):
            break
    return best


def _by_weight(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Return the layers in order, the calls that share a weight together."""
    return [[layer for layer in layers if layer.weight == w] for w in dict.fromkeys(x.weight for x in layers)]


def _refuse_empty(layers: Iterable[Layer], before: Masks, after: Masks) -> None:
    for layer in layers:
        if bool(before[layer.weight].any()) and not bool(after[layer.weight].any()):
            raise TrainingError(
                f"NN-relief would take all weights of {layer.module or layer.weight}: choose an alpha nearer to 1 or a "
                "larger share, leave the layer out of the masks, or allow it with NNRelief(empty_layers=True)."
            )


def _masked(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.masked_fill(~masks[n].to(t.device), 0) if n in masks else t for n, t in tensors.items()}


def _traced(model: nn.Module, inputs: Any) -> Graph:
    return traced(model, Inputs.of(inputs))


def _first(batches: Iterable[Any], samples: int) -> Iterator[Any]:
    """Yield the inputs of the first batches that hold so many samples; labels behind them are left out."""
    seen = 0
    for batch in batches:
        inputs = batch[0] if isinstance(batch, tuple | list) else batch
        yield inputs
        seen += next((len(x) for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor) and x.ndim), 1)
        if seen >= samples:
            return
