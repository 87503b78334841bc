"""Timers without clocks: times that follow from shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from torch import nn

from secateur.measure import Operation
from secateur.measure.count import macs

__all__ = ["Analytic"]


class Analytic:
    """A processor that computes four channels at a time, as vector units do, and counts what it was asked.

    Models take what their layers would alone, by `stretch` longer, and `start` milliseconds; `noise` are factors for
    one model after the other.
    """

    def __init__(self, stretch: float = 1.0, start: float = 0.1, noise: Sequence[float] = ()) -> None:
        self.stretch, self.start, self.noise = stretch, start, list(noise)
        self.asked: list[Operation] = []
        self.timed: list[nn.Module] = []

    def operations(self, operations: Sequence[Operation], batch: int) -> Mapping[Operation, float]:
        """Return milliseconds of the operations."""
        self.asked += operations
        return {o: self._operation(o) for o in operations}

    def models(self, models: Sequence[nn.Module], inputs: Any) -> Sequence[float]:
        """Return milliseconds of the models."""
        self.timed += models
        return [self._model(model, inputs) * (self.noise.pop(0) if self.noise else 1.0) for model in models]

    def _model(self, model: nn.Module, inputs: Any) -> float:
        return self.start + self.stretch * macs(model, inputs) * 1e-6

    def _operation(self, o: Operation) -> float:
        if not o.kernel and o.op != "linear":
            return 1e-8 * o.rows
        positions = prod(-(-n // s) for n, s in zip(o.size, o.stride))
        blocks = 16 * -(-o.inputs // 4) * -(-o.outputs // 4) / o.groups
        return 1e-5 + 1e-6 * o.rows * positions * blocks * prod(o.kernel)
