"""Decay that prunes: irrelevance decay (Bonetta, Ribero, Cancelliere 2023, arXiv 2204.04977), and L1 and L2 beside it.

All three shrink weights through their gradients, and crop the smallest now and then; only the crop makes zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import nn

from secateur.ground.errors import TrainingError
from secateur.ground.patterns import Pattern
from secateur.training.crop import Global, crop_fraction, magnitudes, refuse_empty, require
from secateur.training.hooks import Rule, Step
from secateur.training.masks import Masks
from secateur.training.parameters import choose

from .kinds.weights import OfWeights

__all__ = ["Fading", "GammaSchedule", "IrrelevanceDecay", "Steady", "WeightDecay"]


class GammaSchedule(Protocol):
    """How strong decay is, as a factor of `gamma`."""

    def __call__(self, step: int, steps: int | None) -> float:
        """Return the factor at a step since the last crop; `steps` is how many the whole attachment makes, if known."""
        ...


@dataclass(frozen=True)
class Steady:
    """The same strength in every step."""

    def __call__(self, step: int, steps: int | None) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Fading:
    """Full strength after each crop, falling linearly to nothing over `steps`: the paper's `gamma_decay`.

    There `steps` is one epoch. Without it, it is all steps that `attach` was told of.

    >>> [Fading(4)(step, None) for step in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    steps: int | None = None

    def __post_init__(self) -> None:
        require(self.steps is None or self.steps > 0, "steps", self.steps, "at least 1")

    def __call__(self, step: int, steps: int | None) -> float:
        """Return ``max(0, 1 - step / steps)``."""
        length = self.steps or steps
        if length is None:
            raise TrainingError(
                "Fading does not know over how many steps: Fading(steps), or attach(..., steps=...)."
            )
        return max(0.0, 1 - step / length)


@dataclass(frozen=True)
class IrrelevanceDecay(OfWeights):
    """Weight decay only for weights that the loss does not depend on: the less gradient, the more decay.

    Lowers ``loss + gamma sum_w exp(-|dloss/dw| / alpha) w^2`` with the exponential held constant, so each gradient
    ``g`` becomes ``g + 2 gamma exp(-|g| / alpha) w`` before the optimiser reads it: one backward pass, and with
    gradients summed over several batches ``g`` is that sum. It acts on all parameters, as published (embeddings,
    norms and biases too), or on those that the patterns `only` and `exclude` choose. Parameters without a gradient
    in a step are left alone. Without a share, `prune` crops the smallest `crop` of the weights that are left.

    Raises:
        TrainingError: `gamma` is below 0, `alpha` not above 0, or `crop` not between 0 and 1.

    >>> net = nn.Linear(2, 1, bias=False)
    >>> sgd = torch.optim.SGD(net.parameters(), 0.1)
    >>> with torch.no_grad(), IrrelevanceDecay(gamma=0.5).attach(net, sgd):
    ...     _ = net.weight.copy_(torch.tensor([[1.0, 1.0]]))
    ...     net.weight.grad = torch.tensor([[0.0, 9.0]])
    ...     sgd.step()
    >>> [round(w, 3) for w in net.weight[0].tolist()]
    [0.9, 0.1]
    """

    gamma: float = 1e-5
    alpha: float = 1.0
    schedule: GammaSchedule = field(default_factory=Steady)
    crop: float = 0.1
    only: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()
    empty_layers: bool = False

    def __post_init__(self) -> None:
        _check(self.gamma, self.crop)
        require(0 < self.alpha < math.inf, "alpha", self.alpha, "above 0")

    @property
    def label(self) -> str:
        """What reports call it."""
        return "irrelevance decay"

    def names(self, model: nn.Module) -> tuple[str, ...]:
        """Return the parameters that decay and may be masked."""
        return choose(model, self.only, self.exclude)

    def rule(self, model: nn.Module, masks: Masks, steps: int | None) -> Rule:
        """Return what lets gradients decay irrelevant weights."""

        def decay(step: Step, factor: float) -> None:
            relevance = torch._foreach_abs(step.gradients)
            torch._foreach_mul_(relevance, -1 / self.alpha)
            torch._foreach_exp_(relevance)
            torch._foreach_mul_(relevance, step.weights)
            torch._foreach_add_(step.gradients, relevance, alpha=2 * self.gamma * factor)

        return _Decay(decay, self.names(model), self.schedule, steps)

    def prune(self, model: nn.Module, masks: Masks, share: float | None, batches: Iterable[Any]) -> Masks:
        """Crop the smallest weights, all layers together: to `share` of all entries, or the fraction `crop`.

        Raises:
            TrainingError: a layer loses all its weights, and `empty_layers` is false; `share` is out of range.
        """
        return _cropped(model, masks, share, self)


@dataclass(frozen=True)
class WeightDecay(OfWeights):
    """Plain decay, to compare with: ``loss + gamma sum_w |w|^p``, L2 (`p` = 2) or L1.

    It goes through the gradient, as irrelevance decay does: with Adam it is not the decoupled decay of AdamW.

    Raises:
        TrainingError: `p` is neither 1 nor 2, `gamma` below 0, or `crop` not between 0 and 1.
    """

    gamma: float = 1e-5
    p: Literal[1, 2] = 2
    schedule: GammaSchedule = field(default_factory=Steady)
    crop: float = 0.1
    only: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()
    empty_layers: bool = False

    def __post_init__(self) -> None:
        _check(self.gamma, self.crop)
        require(self.p in (1, 2), "p", self.p, "1 or 2")

    @property
    def label(self) -> str:
        """What reports call it."""
        return f"L{self.p} decay"

    def names(self, model: nn.Module) -> tuple[str, ...]:
        """Return the parameters that decay and may be masked."""
        return choose(model, self.only, self.exclude)

    def rule(self, model: nn.Module, masks: Masks, steps: int | None) -> Rule:
        """Return what lets gradients decay weights."""

        def decay(step: Step, factor: float) -> None:
            slopes = step.weights if self.p == 2 else torch._foreach_sign(step.weights)
            torch._foreach_add_(step.gradients, slopes, alpha=self.p * self.gamma * factor)

        return _Decay(decay, self.names(model), self.schedule, steps)

    def prune(self, model: nn.Module, masks: Masks, share: float | None, batches: Iterable[Any]) -> Masks:
        """Crop the smallest weights, all layers together: to `share` of all entries, or the fraction `crop`.

        Raises:
            TrainingError: a layer loses all its weights, and `empty_layers` is false; `share` is out of range.
        """
        return _cropped(model, masks, share, self)


class _Decay(Rule):
    def __init__(
        self,
        decay: Callable[[Step, float], None],
        names: tuple[str, ...],
        schedule: GammaSchedule,
        steps: int | None,
    ) -> None:
        self._decay, self._names, self._schedule, self._steps = decay, frozenset(names), schedule, steps
        schedule(0, steps)  # what it lacks shows before training starts

    def before(self, step: Step, masks: Masks) -> None:
        factor = self._schedule(step.since, self._steps)
        chosen = step.of(self._names)
        if factor and chosen.weights:
            self._decay(chosen, factor)


def _cropped(
    model: nn.Module, masks: Masks, share: float | None, method: IrrelevanceDecay | WeightDecay
) -> Masks:
    names = method.names(model)
    masks, scores = masks & Masks.full(model, names), magnitudes(model, names)
    smaller = crop_fraction(masks, scores, method.crop) if share is None else Global()(masks, scores, share)
    if not method.empty_layers:
        refuse_empty(masks, smaller)
    return smaller


def _check(gamma: float, crop: float) -> None:
    require(0 <= gamma < math.inf, "gamma", gamma, "0 or above")
    require(0 < crop < 1, "crop", crop, "between 0 and 1")
