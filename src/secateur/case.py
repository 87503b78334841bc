"""What a method is given: the model, its inputs, the data, and what an earlier method left; made once, lazily."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from secateur.blocks import BlockPattern
from secateur.export.target import Call, Target
from secateur.graph import Graph
from secateur.graph.trace import traced
from secateur.ground.copies import copyable
from secateur.ground.devices import check_placement
from secateur.ground.errors import CalibrationError, UsageError
from secateur.ground.inputs import Inputs
from secateur.ground.models import module_of
from secateur.ground.progress import working
from secateur.measure import Timer
from secateur.measure.metric import Metric
from secateur.recovery import Distill
from secateur.result import Result
from secateur.runtime.timer import BlockTimer
from secateur.selection import Limits
from secateur.statistics import Calibration, state_tensors
from secateur.surgery import Plan, fingerprint
from secateur.surgery.chain import after
from secateur.surgery.lineage import lineage
from secateur.surgery.values import revalued, whole
from secateur.training import Training

__all__ = ["Case", "Evaluate", "Journal"]

Evaluate = Callable[[nn.Module], Any]
"""Scores a model: returns one number, of which a `Metric` says what it means."""


@dataclass
class Journal:
    """What a run writes down as it goes on: seconds by phase, and scores by step. The one thing here that changes."""

    seconds: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Show that a phase goes on, and add the time that the block takes to it."""
        start = time.perf_counter()
        with working(name):
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Case:
    """All that `prune` was given, and what follows from it.

    A method starts from `model`. Plans are for `dense`, and reports compare with it: the same model, unless the run
    goes on from an `earlier` result, or from a model that knows how it came from `dense`: `start` is the plan between
    the two. `graph` and `batches` are made when they are first asked for, once in a run.
    """

    model: nn.Module
    dense: nn.Module
    inputs: Inputs
    calibration: Iterable[Any] | None = None
    training: Training | None = None
    earlier: Result | None = None
    start: Plan | None = None
    limits: Limits = field(default_factory=Limits)
    distill: Distill | None = None
    evaluate: Evaluate | None = None
    metric: Metric = field(default_factory=Metric)
    timer: Timer | BlockTimer | None = None
    target: Target | None = None
    seed: int = 0
    journal: Journal = field(default_factory=Journal, compare=False)

    @staticmethod
    def of(
        given: nn.Module | Result,
        inputs: Inputs,
        *,
        dense: nn.Module | None = None,
        calibration: Iterable[Any] | None = None,
        **options: Any,
    ) -> Case:
        """Return the case that a user means by a model, or by a result to go on from.

        Raises:
            UsageError: it is no model, or the dense model of a result is not known.
            SurgeryError: something that the model holds cannot be copied.
        """
        # It is gone through more than once.
        calibration = list(calibration) if isinstance(calibration, Iterator) else calibration
        options["calibration"] = calibration
        if not isinstance(given, Result):
            model = module_of(given)
            check_placement(model)
            copyable(model)  # before any work: what cannot be copied is found at once
            inputs = inputs.beside(model)
            return (
                Case(model, model, inputs, **options)
                if dense is None
                else _since(model, dense, inputs, options)
            )
        dense = given.dense if dense is None else dense
        if dense is None:
            raise UsageError("A result goes on from the model that it was made of: give it as dense=...")
        inputs = inputs.beside(given.model)
        return Case(given.model, dense, inputs, earlier=given, start=given.plan, **options)

    @cached_property
    def graph(self) -> Graph:
        """The traced model."""
        with self.journal.phase("trace"):
            return traced(self.model, self.inputs)

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """The parameters and buffers of the traced model, by canonical name."""
        return state_tensors(self.graph.program)

    @cached_property
    def batches(self) -> Calibration:
        """The calibration data as inputs of the traced model.

        Raises:
            CalibrationError: there are none.
        """
        if self.calibration is None:
            raise CalibrationError("Calibration data are missing: give calibration=..., batches of inputs.")
        return Calibration.of(self.calibration, self.graph.program)

    @cached_property
    def deployed(self) -> Call | None:
        """The dense model in the engine of the target, ready to be timed.

        Raises:
            ExportError: the engine is not installed, or does not take the model.
        """
        if self.target is None:
            return None
        with self.journal.phase("measurement"):
            return self.target.engine(self.dense, self.inputs)

    @property
    def patterns(self) -> Mapping[str, BlockPattern]:
        """Blocks that are zero or unified already."""
        return {} if self.earlier is None else self.earlier.plan.patterns

    def plan(self, model: nn.Module, patterns: Mapping[str, BlockPattern]) -> Plan:
        """Return the plan from the dense model to one that has the shapes of `self.model` and other values."""
        plan = whole(self.dense) if self.start is None else self.start
        return revalued(plan, self.dense, model, patterns)

    def onwards(self, plan: Plan, model: nn.Module) -> Plan:
        """Return the plan from the dense model to `model`, from one that leads there from `self.model`."""
        return plan if self.start is None else revalued(after(self.start.steps, plan), self.dense, model)

    def phase(self, name: str) -> Any:
        """Add the time that a block takes to a phase of the report."""
        return self.journal.phase(name)

    def score(self, step: str, model: nn.Module) -> None:
        """Score a model, where the user said how, as a step of the report: pruned, recovered, distilled, finetuned.

        Raises:
            MetricError: what came back is no finite number.
        """
        if self.evaluate is not None and step not in self.journal.scores:
            with self.phase("evaluation"):
                self.journal.scores[step] = self.metric.checked(self.evaluate(model))


def _since(model: nn.Module, dense: nn.Module, inputs: Inputs, options: Mapping[str, Any]) -> Case:
    """Return the case of a model that was made of a dense one, which it knows of if secateur made it."""
    dense, past = module_of(dense), lineage(model)
    start = None
    if past is not None and past.plan.steps[0].made_for == fingerprint(dense):
        start = revalued(past.plan, dense, model)
    return Case(model, dense, inputs, start=start, **options)
