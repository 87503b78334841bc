"""Where a method starts: from a trained model, or from the result of another method, whose plan then goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from secateur.ground.tensors import tensor_names, tensors_of

from .api import Result
from .blocks import BlockPattern
from .ground.errors import StructureError
from .report import Report
from .surgery import Plan, apply
from .surgery.fingerprint import fingerprint

__all__ = ["Start"]


@dataclass(frozen=True)
class Start:
    """The model to go on from, the dense one that plans are for and reports compare with, and what came before.

    Raises:
        StructureError: there is an earlier result, but no dense model.
    """

    model: nn.Module
    dense: nn.Module
    earlier: Result | None = None

    @staticmethod
    def of(given: nn.Module | Result, dense: nn.Module | None) -> Start:
        """Return the start that a user means by a model, or by a result and the dense model that it was made of."""
        if not isinstance(given, Result):
            return Start(given, given if dense is None else dense)
        if dense is None:
            raise StructureError("A result goes on from the model that it was made of: give it as dense=...")
        return Start(given.model, dense, given)

    @property
    def patterns(self) -> Mapping[str, BlockPattern]:
        """Blocks that are zero or unified already."""
        return {} if self.earlier is None else self.earlier.plan.patterns

    def plan(self, model: nn.Module, patterns: Mapping[str, BlockPattern]) -> Plan:
        """Return the plan from the dense model to one that has this start's shapes and other values."""
        plan = Plan({}, (), fingerprint(self.dense)) if self.earlier is None else self.earlier.plan
        old, new = tensors_of(apply(self.dense, plan)), tensors_of(model)
        names = [group[0] for group in tensor_names(model)]
        changed = {n: new[n].detach().clone() for n in names if not torch.equal(new[n], old[n])}
        return replace(plan, tensors={**plan.tensors, **changed}, patterns=dict(patterns))

    def report(self, report: Report) -> Report:
        """Return a method's report with what earlier methods did."""
        if self.earlier is None:
            return report
        before = self.earlier.report
        phases = dict.fromkeys([*before.seconds, *report.seconds])
        return replace(
            report,
            method=f"{before.method}; {report.method}",
            budget=f"{before.budget}; {report.budget}",
            max_masked_difference=max(before.max_masked_difference, report.max_masked_difference),
            seconds={k: before.seconds.get(k, 0.0) + report.seconds.get(k, 0.0) for k in phases},
            kept={**before.kept, **report.kept},
            curves={**before.curves, **report.curves},
            refused={**before.refused, **report.refused},
            frozen=before.frozen or report.frozen,
        )

    def recipe(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Return a method's recipe with those of earlier methods."""
        return {**recipe} if self.earlier is None else {**recipe, "after": dict(self.earlier.recipe)}
