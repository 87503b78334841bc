"""LOBSTER (Tartaglione et al. 2020, arXiv 2011.09905): decay by the loss's sensitivity, thresholds by its value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from secateur.ground.errors import DataError, TrainingError
from secateur.ground.inputs import Inputs
from secateur.ground.modes import evaluating
from secateur.ground.patterns import Pattern
from secateur.ground.processes import summed
from secateur.statistics import Loss
from secateur.training.crop import Global, magnitudes, refuse_empty, require
from secateur.training.finetune import pairs
from secateur.training.hooks import Rule, Step
from secateur.training.masks import Masks
from secateur.training.parameters import choose, parameters, unwrap

from .kinds.weights import OfWeights

__all__ = ["Lobster"]


@dataclass(frozen=True)
class Lobster(OfWeights):
    """Each step is followed by ``w -= strength * max(0, 1 - |dloss/dw|) * w``, apart from the learning rate.

    Without a share, `prune` looks by bisection for the largest magnitude below which all weights can go while
    `loss(outputs, labels)`, the mean over the batches it is given, grows by the share `tolerance` at most (the
    authors' code: 0.05, on validation data, whenever that loss no longer falls). Weights and biases alike, of all
    layers or of those that `only` and `exclude` choose. The authors train by plain SGD, without momentum.

    Raises:
        TrainingError: `strength` is not in 0..1, or `tolerance` not above 0.
    """

    strength: float = 1e-4
    tolerance: float = 0.05
    loss: Loss = F.cross_entropy
    only: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()
    empty_layers: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.strength <= 1, "strength", self.strength, "in 0..1")
        require(0 < self.tolerance < math.inf, "tolerance", self.tolerance, "above 0")

    @property
    def label(self) -> str:
        """What reports call it."""
        return "LOBSTER"

    def names(self, model: nn.Module) -> tuple[str, ...]:
        """Return the parameters that shrink and may be masked."""
        return choose(model, self.only, self.exclude)

    def rule(self, model: nn.Module, masks: Masks, steps: int | None) -> Rule:
        """Return what shrinks insensitive weights after every step."""
        return _Shrink(self.strength, self.names(model))

    def prune(self, model: nn.Module, masks: Masks, share: float | None, batches: Iterable[Any]) -> Masks:
        """Drop the smallest weights: to `share` of all entries, or as many as the loss on labelled batches bears.

        Raises:
            DataError: without a share, the batches are empty or no (inputs, labels).
            TrainingError: the loss is not finite; a layer loses all its weights, and `empty_layers` is false.
        """
        names = self.names(model)
        masks, scores = masks & Masks.full(model, names), magnitudes(model, names)
        found = (
            self._within_tolerance(model, masks, scores, batches)
            if share is None
            else Global()(masks, scores, share)
        )
        if not self.empty_layers:
            refuse_empty(masks, found)
        return found

    def _within_tolerance(
        self, model: nn.Module, masks: Masks, scores: Mapping[str, Tensor], batches: Iterable[Any]
    ) -> Masks:
        """Return the masks of the largest threshold that the loss bears."""

        def above(threshold: float) -> Masks:
            return masks & Masks({name: score >= threshold for name, score in scores.items()})

        base = self._mean_loss(model, masks, batches)
        bound = (1 + self.tolerance) * base
        left = torch.cat([s[masks[n].to(s.device)] for n, s in scores.items()])
        low, high, threshold = 0.0, math.inf, float(left.mean())
        found, reached = masks, base
        # The authors stop within 5 % of the bound, or when the threshold stands still; so does a count that does.
        while bound - reached >= 0.05 * bound and high - low > 1e-10:
            trial = above(threshold)
            value = self._mean_loss(model, trial, batches)
            same = trial.kept == found.kept
            if value <= bound:
                low, found, reached = threshold, trial, value
            else:
                high = threshold
            if (same and high < math.inf) or trial.kept == 0:
                break
            threshold = 2 * threshold if high == math.inf else (low + high) / 2
        return found

    @torch.no_grad()
    def _mean_loss(self, model: nn.Module, masks: Masks, batches: Iterable[Any]) -> float:
        """Return the loss of the masked model, the mean over batches; the model stays as it is."""
        known, inner = parameters(model), unwrap(model)
        inside: dict[str, Tensor] = {n: known[n] * masks[n].to(known[n].device) for n in masks}
        sums = torch.zeros(2, dtype=torch.float64)
        with evaluating(inner):
            for inputs, labels in pairs(batches):
                given = Inputs.of(inputs)
                outputs = functional_call(inner, inside, given.args, dict(given.kwargs))
                loss = self.loss(outputs, labels)
                sums += torch.tensor([float(loss), 1.0], dtype=torch.float64)
        total, count = summed(sums).tolist()
        if not count:
            raise DataError(
                "LOBSTER measures the loss: prune needs batches of (inputs, labels), as often as it asks (a DataLoader "
                "or a list, not an iterator), or a share."
            )
        if not math.isfinite(total):
            raise TrainingError(
                "The loss is not finite on the batches that LOBSTER measures: look at the data."
            )
        return float(total / count)


class _Shrink(Rule):
    def __init__(self, strength: float, names: tuple[str, ...]) -> None:
        self._strength, self._names = strength, frozenset(names)

    def after(self, step: Step, masks: Masks) -> None:
        chosen = step.of(self._names)
        if not chosen.weights:
            return
        insensitive = torch._foreach_abs(chosen.gradients)
        torch._foreach_neg_(insensitive)
        torch._foreach_add_(insensitive, 1)
        torch._foreach_clamp_min_(insensitive, 0)
        torch._foreach_mul_(insensitive, chosen.weights)
        torch._foreach_add_(chosen.weights, insensitive, alpha=-self._strength)
