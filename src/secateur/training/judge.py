"""Validation: one number for a network, the same in all processes, and whether it is above the bound."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from secateur.ground.errors import TrainingError
from secateur.ground.modes import evaluating
from secateur.ground.processes import in_step
from secateur.measure import top1

from .log import Row
from .options import Validation
from .session import Session

__all__ = ["Judge"]


class Judge:
    """Measures a model as a run's `Validation` says."""

    def __init__(self, model: nn.Module, validation: Validation | None, session: Session) -> None:
        self._model, self._session = model, session
        self._measure = validation.measure if validation is not None else None
        self._bound = validation.bound if validation is not None else None

    @property
    def asked(self) -> bool:
        """Whether there is anything to measure."""
        return self._measure is not None

    def __call__(self) -> float:
        """Return the metric of the model as it is now.

        Raises:
            TrainingError: it is not finite.
        """
        assert self._measure is not None
        self._session.share_buffers(self._model)
        with in_step(), evaluating(self._model), torch.no_grad():
            if isinstance(self._measure, Iterable):
                value = top1(self._model, map(self._session.placed, self._measure))
            else:
                value = float(self._measure(self._model))
        value = self._session.agreed(value)
        if not math.isfinite(value):
            raise TrainingError(
                f"The validation metric is {value}: the network or the measure is broken. The last checkpoint stays."
            )
        return value

    def above(self, metric: float | None, dense: float | None) -> bool:
        """Whether a metric is above the bound; without a bound, always."""
        if self._bound is None:
            return True
        assert metric is not None
        assert dense is not None
        return metric > self._bound.value(dense)

    def never_met(self, rows: list[Row], dense: float | None) -> str:
        """Say how close a run came to its bound."""
        assert self._bound is not None
        assert dense is not None
        tried = [row for row in rows if row.metric is not None and row.round > 0]
        best = max(tried, key=lambda row: row.metric or 0.0, default=None)
        close = (
            ""
            if best is None
            else f"the best one had {best.metric:.5g} with {best.share:.1%} of the connections, "
        )
        return (
            f"No pruned network was above the bound {self._bound.value(dense):.5g}: {close}the dense one has "
            f"{dense:.5g}. Lower the bound, prune less at a time, or train longer."
        )
