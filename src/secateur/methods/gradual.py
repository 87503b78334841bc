"""Gradual magnitude pruning (Zhu and Gupta 2017, arXiv 1710.01878): a cubic schedule while the network trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.ground.errors import TrainingError
from secateur.ground.patterns import Pattern
from secateur.training.crop import Global, Scope, magnitudes, refuse_empty, require
from secateur.training.hooks import Rule, Step
from secateur.training.masks import Masks
from secateur.training.parameters import choose, parameters

from .kinds.weights import OfWeights

__all__ = ["GradualMagnitude"]


@dataclass(frozen=True)
class GradualMagnitude(OfWeights):
    """The smallest weights go every `every` steps, many at first and few at last, until `share` is kept.

    After step t of ``attach(..., steps=n)``, between ``begin * n`` and ``end * n``, the share of zeros is
    ``s_f + (s_i - s_f) (1 - (t - begin n) / ((end - begin) n))^3`` (their equation 1), from what the masks drop at
    the start to ``1 - share``. All layers compete, `Global()`, or each goes the same way by itself, `LayerWise()`,
    as published. Only parameters with two dimensions or more are pruned, unless `vectors` (biases, gains of norms);
    `only` and `exclude` choose among them.

    Raises:
        TrainingError: `share` is not in (0, 1], `every` below 1, or not ``0 <= begin <= end <= 1``.

    >>> [round(1 - GradualMagnitude(0.2, end=1.0).kept(1.0, t, 100), 3) for t in (0, 25, 50, 100)]
    [0.0, 0.462, 0.7, 0.8]
    """

    share: float = 0.2
    every: int = 100
    begin: float = 0.0
    end: float = 0.75
    scope: Scope = field(default_factory=Global)
    vectors: bool = False
    only: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()
    empty_layers: bool = False

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "share", self.share, "in (0, 1]")
        require(self.every >= 1, "every", self.every, "at least 1 step")
        require(
            0 <= self.begin <= self.end <= 1, "(begin, end)", (self.begin, self.end), "0 <= begin <= end <= 1"
        )

    @property
    def label(self) -> str:
        """What reports call it."""
        return "gradual magnitude" if isinstance(self.scope, Global) else "gradual magnitude, layer by layer"

    def kept(self, start: float, step: int, steps: int) -> float:
        """Return the share kept after `step` of `steps` steps, from `start` on."""
        first, last = self.begin * steps, self.end * steps
        if step < first:
            return start
        left = 1 - (step - first) / (last - first) if step < last else 0.0
        return min(start, self.share + (start - self.share) * left**3)

    def rule(self, model: nn.Module, masks: Masks, steps: int | None) -> Rule:
        """Prune during the next `steps` optimiser steps.

        Raises:
            TrainingError: `steps` is not given.
        """
        if steps is None:
            raise TrainingError(
                "Gradual pruning has to know its length: attach(model, optimizer, steps=...)."
            )
        return _Schedule(self, model, masks.share, steps)

    def towards(self, share: float | None) -> tuple[GradualMagnitude, float | None]:
        """Return the method that ends at a share: it goes down by itself, so that no round starts with less."""
        return (self, None) if share is None else (replace(self, share=share), None)

    def prune(self, model: nn.Module, masks: Masks, share: float | None, batches: Iterable[Any]) -> Masks:
        """Drop the smallest weights at once, to `share`; without a share the schedule alone prunes, in training.

        Raises:
            TrainingError: a layer loses all its weights, and `empty_layers` is false; `share` is out of range.
        """
        names = self.names(model)
        masks = masks & Masks.full(model, names)
        if share is None:
            return masks
        smaller = self.scope(masks, magnitudes(model, names), share)
        if not self.empty_layers:
            refuse_empty(masks, smaller)
        return smaller

    def names(self, model: nn.Module) -> tuple[str, ...]:
        """Return the parameters that may be masked."""
        known = parameters(model)
        return tuple(n for n in choose(model, self.only, self.exclude) if self.vectors or known[n].dim() >= 2)


class _Schedule(Rule):
    def __init__(self, method: GradualMagnitude, model: nn.Module, start: float, steps: int) -> None:
        self._method, self._model, self._start, self._steps = method, model, start, steps

    def after(self, step: Step, masks: Masks) -> Masks | None:
        method, done = self._method, step.count + 1
        first, last = round(method.begin * self._steps), max(round(method.end * self._steps), 1)
        if not first <= done <= last or ((done - first) % method.every and done != last):
            return None
        smaller = method.prune(self._model, masks, method.kept(self._start, done, self._steps), ())
        return None if smaller.kept == masks.kept else smaller

    def state_dict(self) -> dict[str, Tensor]:
        return {"start": torch.tensor(self._start, dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._start = float(state["start"])
