"""What a run found, as plain data: what was gained, what it cost, and where that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from secateur.measure.count import Size
from secateur.measure.environment import Environment
from secateur.measure.latency import Comparison
from secateur.measure.metric import Metric

from .evidence import FrozenPart, LossCurve, Sparsity, Structured

__all__ = ["Deployed", "Findings", "Scores"]


@dataclass(frozen=True)
class Deployed:
    """Times in the engine that the network is meant for, and the multiple of units that was asked for."""

    engine: str
    latency: Comparison
    round_to: int = 1
    liked: int = 1  # by the engine


@dataclass(frozen=True)
class Scores:
    """What the caller's own ``evaluate`` returned at each stage of a run; the report's metric says what it means."""

    dense: float
    pruned: float | None = None  # before recovery
    recovered: float | None = None
    distilled: float | None = None  # by gradient steps without labels: no longer "without training"
    finetuned: float | None = None

    def steps(self) -> list[tuple[str, float]]:
        """Return what was measured, in order, with a name."""
        repaired = [self.recovered, self.distilled, self.finetuned] != [None, None, None]
        named = {
            "dense": self.dense,
            "before recovery" if repaired else "nothing repaired": self.pruned,
            "recovered": self.recovered,
            "distilled": self.distilled,
            "fine-tuned": self.finetuned,
        }
        return [(name, value) for name, value in named.items() if value is not None]


@dataclass(frozen=True, repr=False)
class Findings:
    """The data of a `Report`, which adds the forms that people look at. What was not measured is None, never estimated.

    `before` and `after` are of the dense network and of the result, MACs per sample; `latency` times both in one run.
    """

    method: str
    budget: str
    before: Size
    after: Size
    max_masked_difference: float  # largest |masked - shrunk| over calibration outputs, before recovery
    seconds: Mapping[str, float]  # by phase
    environment: Environment
    seed: int
    latency: Comparison | None = None
    deployed: Deployed | None = None  # where a target was given
    scores: Scores | None = None  # where the caller gave an `evaluate`,
    metric: Metric = field(default_factory=Metric)  # and what its values mean
    kept: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # group: (units kept, units before)
    model: str = ""  # what it is called
    curves: Mapping[str, LossCurve] = field(default_factory=dict)  # by group
    refused: Mapping[str, str] = field(default_factory=dict)  # group: why it was left whole
    limits: tuple[str, ...] = ()  # what the smaller model cannot do that the dense one could
    frozen: tuple[FrozenPart, ...] = ()
    sparsity: Sparsity | None = None  # of methods that remove single weights
    structure: Structured | None = None  # of methods that make blocks zero or unify them
    original: Size | None = None  # of the network that was pruned first, where that is not the dense one
    recipe: Mapping[str, Any] = field(default_factory=dict)  # how to run it again
