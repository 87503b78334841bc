"""From ranked groups to a smaller model that was verified; groups that the model's code resists are left whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from .candidates import Candidates, tried
from .errors import SurgeryError, TraceError
from .graph import Graph, Kept
from .selection import Ranked
from .surgery import Plan, Verification, apply, make_plan, mask, verify

__all__ = ["Cut", "Inputs", "cut", "remaining"]

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]


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
    ranked: Sequence[Ranked],
    select: Callable[[list[Ranked]], Kept],
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
        return _cut(model, graph, chosen, select(list(ranked)), inputs)
    except (SurgeryError, TraceError):
        left = tried(model, graph, chosen)
        if left == chosen:
            raise
    return _cut(model, graph, left, select(remaining(ranked, left)), inputs)


def remaining(ranked: Sequence[Ranked], left: Candidates) -> list[Ranked]:
    """Return the ranked groups that are left, as they are now."""
    groups = {g.id: g for g in left.groups}
    return [replace(r, group=groups[r.group.id]) for r in ranked if r.group.id in groups]


def _cut(model: nn.Module, graph: Graph, chosen: Candidates, kept: Kept, inputs: Inputs) -> Cut:
    plan = make_plan(model, graph, kept)
    smaller = apply(model, plan)
    verification = verify(mask(model, graph, kept), smaller, graph, kept, *inputs)
    return Cut(chosen, kept, plan, smaller, verification)
