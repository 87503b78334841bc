"""From ranked groups to a smaller model that was verified; groups that the model's code resists are left whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from secateur.graph import Graph, Kept
from secateur.ground.errors import SurgeryError, TraceError
from secateur.ground.inputs import Inputs

from .apply import apply
from .candidates import Candidates, tried
from .mask import mask
from .plan import Plan
from .planning import make_plan
from .verify import Verification, verify

__all__ = ["Cut", "cut"]


@dataclass(frozen=True)
class Cut:
    """A selection carried out and verified, nothing repaired yet."""

    candidates: Candidates
    kept: Kept
    plan: Plan
    model: nn.Module
    verification: Verification


def cut(
    model: nn.Module,
    graph: Graph,
    chosen: Candidates,
    select: Callable[[Candidates], Kept],
    inputs: Inputs,
) -> Cut:
    """Select, cut a copy of the model and verify it on `inputs` (masked = shrunk).

    Only if that fails are the groups tried one by one, those that cannot be edited left out, and the selection
    made again: most models need no trial, which costs an export or more.

    Raises:
        SurgeryError: the smaller model is not what was promised, though every group alone can be edited.
        BudgetError: as `select`.
    """
    try:
        return _cut(model, graph, chosen, select(chosen), inputs)
    except (SurgeryError, TraceError):
        left = tried(model, graph, chosen)
        if left == chosen:
            raise
    return _cut(model, graph, left, select(left), inputs)


def _cut(model: nn.Module, graph: Graph, chosen: Candidates, kept: Kept, inputs: Inputs) -> Cut:
    plan = make_plan(model, graph, kept)
    smaller = apply(model, plan)
    verification = verify(mask(model, graph, kept), smaller, graph, kept, inputs.args, inputs.kwargs)
    return Cut(chosen, kept, plan, smaller, verification)
