"""NN-relief (arXiv 2109.10795): what a connection carries on real inputs says whether it stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.graph import Graph, Layer
from secateur.graph.trace import traced
from secateur.graph.unread import sweep
from secateur.ground.errors import BudgetError, CalibrationError, TrainingError
from secateur.ground.inputs import Inputs
from secateur.ground.processes import in_step, processes
from secateur.statistics.activity import WORKSPACE, Activity, Contributions, Norm, activity
from secateur.statistics.forward import state_tensors
from secateur.statistics.outlets import outlet
from secateur.statistics.weights import as_stored
from secateur.training.masks import Masks
from secateur.training.parameters import unwrap

from .kinds.weights import OfWeights

__all__ = ["NNRelief", "PivotRule", "Propagation", "select"]

_HALVINGS = 30


class PivotRule(StrEnum):
    """What happens at the contributor with which the share alpha is reached."""

    STAYS = "stays"
    """The paper: everything below its contribution goes, so it stays and so do those equal to it."""
    NEXT_GOES = "next goes"
    """The public code: the next contributor, and all not above that one, go; one goes even where all are needed."""


class Propagation(StrEnum):
    """Which activations the next layer is scored on."""

    WHOLE = "whole"
    """The public code: those of the network before this pruning. One pass scores all layers."""
    PRUNED = "pruned"
    """Those that are left after pruning the layers before. One pass for every layer."""


@dataclass(frozen=True)
class NNRelief(OfWeights):
    """Keep, for every neuron or filter, the fewest contributors that together carry the share alpha.

    A contributor is a weight of a linear layer, a kernel (one input channel of one filter) of a convolution, or the
    bias, scored by mean absolute activity over the first `samples` samples given. Then everything goes that only
    feeds units which nothing reads any more. With `residual`, a channel of a layer that adds to a residual stream
    goes where it carries less than 1 - alpha of the sum. Prune and train by turns: a few rounds of alpha = 0.95 reach
    what one round at a low alpha cannot.

    The defaults are the paper's; `norm`, `pivot` and `Training(rewind=...)` give what the public code does. Two
    things are ours: an identity shortcut is never cut (it has no weight to mask), and a contributor that carries
    nothing never stays.

    Raises:
        ValueError: an alpha is not in (0, 1], or a number is below 1.

    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> x = torch.rand(64, 4)
    >>> masks = NNRelief(alpha_linear=0.8).prune(net, Masks.full(net), None, [x])
    >>> masks.kept < masks.total
    True
    """

    alpha_conv: float = 0.95
    alpha_linear: float = 0.95
    norm: Norm = Norm.MEAN_OF_NORMS
    pivot: PivotRule = PivotRule.STAYS
    propagation: Propagation = Propagation.WHOLE
    residual: bool = True
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
        for name in ("samples", "workspace"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")

    @property
    def label(self) -> str:
        """What reports call it."""
        return "NN-relief"

    def prune(self, model: nn.Module, masks: Masks, share: float | None, batches: Iterable[Any]) -> Masks:
        """Return the next masks, within the given ones.

        `batches` yields inputs, or (inputs, labels) of which the labels are ignored; parameters without a mask stay
        whole. With a `share` (kept of all entries of the masks) the alphas are raised to one common power, the
        smallest that meets it; without, they are taken as they are. A model on several processes is scored on the
        samples of all of them.

        Raises:
            TraceError: the model cannot be exported.
            CalibrationError: the batches are empty, do not fit one another, or make values that are not finite.
            BudgetError: every neuron keeps a contributor, so that the share cannot be met.
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

        whole = self.propagation is Propagation.WHOLE
        scored = self._activity(graph, layers, tensors, inputs) if whole else None

        def at(power: float) -> Masks:
            left = masks
            for calls in [layers] if whole else _by_weight(layers):
                found = scored or self._activity(graph, calls, _masked(tensors, left), inputs)
                left = left & self._stay(graph, calls, found, power, masks)
            return Masks(sweep(graph, left))

        result = at(1.0) if share is None else _smallest(at, share)
        if not self.empty_layers:
            _refuse_empty(layers, masks, result)
        return result

    def _activity(
        self, graph: Graph, layers: Sequence[Layer], tensors: Mapping[str, Tensor], inputs: list[Any]
    ) -> Activity:
        return activity(graph, layers, tensors, inputs, self.norm, self.workspace)

    def _stay(
        self, graph: Graph, layers: Iterable[Layer], found: Activity, power: float, masks: Masks
    ) -> Masks:
        """Return what stays of the parameters of some layers, each alpha raised to a power."""

        def alpha(layer: Layer) -> float:
            return float((self.alpha_conv if layer.taps else self.alpha_linear) ** power)

        left = _strong_contributors(layers, found, alpha, self.pivot, masks)
        return left & _strong_channels(graph, layers, found, alpha, masks) if self.residual else left


def select(
    found: Contributions, alpha: float, pivot: PivotRule = PivotRule.STAYS
) -> tuple[Tensor, Tensor | None]:
    """Return which inputs (outputs, inputs) and which biases (outputs,) stay, neuron by neuron.

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


def _strong_contributors(
    layers: Iterable[Layer],
    found: Activity,
    alpha: Callable[[Layer], float],
    pivot: PivotRule,
    masks: Masks,
) -> Masks:
    """Return what stays of each layer's weights and biases; one that several calls share stays if one needs it."""
    stays: dict[str, Tensor] = {}
    for layer in layers:
        inputs, bias = select(found.contributions[layer.node], alpha(layer), pivot)
        shape = (*inputs.shape, *layer.taps)
        whole = inputs.reshape(*inputs.shape, *(1 for _ in layer.taps)).expand(shape)
        parts = {layer.weight: as_stored(layer, whole)}
        if layer.bias is not None and bias is not None and layer.bias in masks:
            parts[layer.bias] = bias
        for name, part in parts.items():
            stays[name] = stays[name] | part if name in stays else part
    return Masks({name: part.to(masks[name].device) for name, part in stays.items()})


def _strong_channels(
    graph: Graph, layers: Iterable[Layer], found: Activity, alpha: Callable[[Layer], float], masks: Masks
) -> Masks:
    """Return what stays of the channels that enter a residual sum: all but those that carry next to nothing of it.

    Two contributors, the branch B and the other operand R: B goes where ``|B| / (|B| + |R|) < 1 - alpha``.
    """
    left: dict[str, Tensor] = {}
    for layer in layers:
        share = found.shares.get(layer.node)
        if share is None:
            continue
        weak = (share < 1 - alpha(layer)) & (share < 0.5)
        for name, dim in _of_output(graph, layer):
            if name in masks:
                mask = left.setdefault(name, torch.ones_like(masks[name]))
                mask.index_fill_(dim, weak.nonzero().flatten().to(mask.device), False)
    return Masks(left)


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


def _smallest(at: Callable[[float], Masks], share: float) -> Masks:
    """Return the masks of the smallest power of alpha that keeps at most `share`."""
    low, high = 0.0, 1.0
    best = at(high)
    while best.share > share:
        low, high = high, 2 * high
        best = at(high)
        if high > 1e6:
            raise BudgetError(
                f"NN-relief keeps a contributor of every neuron that is read, {best.share:.4g} of all masked "
                f"entries in one round: {share:.4g} takes more rounds, with training between them."
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
