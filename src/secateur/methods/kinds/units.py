"""Methods that remove units: collect, rank, select, cut and verify, recover, and distil where that is wished for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_structure, tree_unflatten

from secateur.case import Case
from secateur.graph import Graph, Group
from secateur.ground.errors import BudgetError
from secateur.ground.inputs import Inputs
from secateur.ground.modes import exact_products
from secateur.ground.processes import digest, in_step, require_same
from secateur.measure import Stopwatch, Timer, size
from secateur.methods.protocol import Draft, Evidence, Needs
from secateur.recovery import Recovery
from secateur.recovery.jobs import masked
from secateur.report import frozen_parts, loss_curve
from secateur.selection import Allocation, Budget, Constraints, Ranked, Uniform, remaining, select
from secateur.selection.overrides import check_fixed, fixed_units
from secateur.statistics import Calibration, Statistics, collect
from secateur.surgery import Plan, apply
from secateur.surgery.candidates import Candidates, candidates
from secateur.surgery.cutting import Cut, cut
from secateur.surgery.values import repaired

from .latency import cut_to_latency

__all__ = ["OfUnits"]

SHOWN = 16  # samples on which the smaller model is verified, at most


@dataclass(frozen=True)
class OfUnits(ABC):
    """The base of methods that score units; a subclass implements `rank`.

    Groups compete for the budget by `allocation`, and `recovery` repairs what is left, if there is one.
    """

    allocation: Allocation = field(default_factory=Uniform, kw_only=True)
    recovery: Recovery | None = field(default=None, kw_only=True)

    @property
    def label(self) -> str:
        """What reports call it."""
        return type(self).__name__

    @property
    def needs(self) -> Needs:
        """What it has to be given."""
        units = tuple(f.name for f in fields(Budget) if f.name != "weights")
        return Needs(calibration=True, budget=True, budgets=units, limits=True, distill=True, result=False)

    @abstractmethod
    def rank(self, graph: Graph, group: Group, statistics: Statistics) -> Ranked:
        """Return the order of a group's units, the most important first, and what is lost along it."""

    def draft(self, case: Case, budget: Budget | None) -> Draft:
        """Return the smaller model, repaired.

        Raises:
            CalibrationError: calibration data are empty, of wrong shape or make values that are not finite; or another
                of several processes has failed, or has other weights or options.
            BudgetError: the budget cannot be met; the message says how far the model can go. Or `keep` contradicts
                itself or names nothing that may be pruned.
            UnknownNameError: a pattern in `exclude` or `keep` matches nothing.
            SurgeryError: the smaller model does not compute what was promised.
        """
        assert budget is not None  # `needs` says so
        with exact_products():
            draft = _draft(self, case, _of_dense(case, budget))
            return replace(draft, plan=case.onwards(draft.plan, draft.model))


def _of_dense(case: Case, budget: Budget) -> Budget:
    """Return a budget for the case's model that is the same of the dense one, which shares are of."""
    if case.start is None or not budget.is_share or budget.unit == "variance":
        return budget
    if budget.timed:
        timer = case.timer if isinstance(case.timer, Timer) else Stopwatch()
        dense, start = timer.models((case.dense, case.model), case.inputs)
        return Budget(latency=min(budget.value * dense / start, 1.0))
    dense, start = (getattr(size(model, case.inputs), budget.unit) for model in (case.dense, case.model))
    return Budget(**{budget.unit: max(int(min(budget.absolute(dense), start)), 2)})


def _draft(method: OfUnits, case: Case, budget: Budget) -> Draft:
    graph, limits = case.graph, case.limits
    with case.phase("trace"):
        chosen = candidates(case.model, graph, limits.exclude, streams=limits.streams)
        fixed = fixed_units(case.model, graph, chosen, limits.keep)
        constraints = Constraints(limits.round_to, limits.floor, uniform=limits.uniform, fixed=fixed)
    needs = method.needs
    with case.phase("statistics"):
        statistics = collect(
            graph, chosen.groups, case.batches, patches=needs.patches, loss=needs.loss, seed=case.seed
        )
    with case.phase("selection"):
        ranked = [method.rank(graph, group, statistics) for group in chosen.groups]
        statistics.release()
    with case.phase("surgery and timing" if budget.timed else "surgery"):
        first = _cut(case, chosen, ranked, budget, method.allocation, constraints)
        with in_step():
            check_fixed(fixed, first.candidates)
    kept, chosen = first.kept, first.candidates
    require_same(
        digest({name: torch.tensor(units) for name, units in kept.items()}),
        "selection",
        "give each the same options, and data that the model can be verified on",
    )
    evidence = Evidence(
        max_masked_difference=first.verification.max_difference,
        kept={g.id: (len(kept[g.id]), g.size) for g in chosen.groups},
        curves={r.group.id: loss_curve(r.loss, len(kept[r.group.id])) for r in ranked if r.group.id in kept},
        refused=chosen.refused,
        frozen=frozen_parts(graph.frozen),
    )
    case.score("pruned", first.model)
    plan = first.plan
    if method.recovery is None and case.distill is None:
        return Draft(first.model, plan, "pruned", evidence)
    del first  # stage by stage, so that no more networks are in memory than have to be
    if method.recovery is None:
        return _distilled(case, plan, evidence, masked(graph, statistics.tensors, kept))
    with case.phase("recovery"):
        statistics.release()
        tensors = method.recovery(graph, kept, statistics, case.batches, case.seed)
        plan = repaired(case.model, graph, kept, tensors, plan)
        statistics.release()
        if case.distill is None:
            del tensors
        smaller = apply(case.model, plan)
    case.score("recovered", smaller)
    if case.distill is None:
        return Draft(smaller, plan, "recovered", evidence)
    del smaller
    return _distilled(case, plan, evidence, tensors)


def _distilled(case: Case, plan: Plan, evidence: Evidence, tensors: Mapping[str, Tensor]) -> Draft:
    """Return the draft after gradient steps on the calibration inputs, from repaired tensors on."""
    assert case.distill is not None
    with case.phase("distillation"):
        tensors = case.distill(case.graph, plan.kept, tensors, case.batches, case.seed)
        plan = repaired(case.model, case.graph, plan.kept, tensors, plan)
        smaller = apply(case.model, plan)
    case.score("distilled", smaller)
    return Draft(smaller, plan, "distilled", evidence)


def _cut(
    case: Case,
    chosen: Candidates,
    ranked: list[Ranked],
    budget: Budget,
    allocation: Allocation,
    constraints: Constraints,
) -> Cut:
    """Select within the budget, cut and verify, nothing repaired yet."""
    graph = case.graph
    with in_step():
        shown = _shown(case.batches, graph)
    if budget.timed:
        timer = case.timer if isinstance(case.timer, Timer) else Stopwatch()
        with _told_of(chosen.refused):
            return cut_to_latency(
                case.model, graph, chosen, ranked, budget, allocation, constraints, shown, case.inputs, timer
            )

    def choose(left: Candidates) -> Mapping[str, tuple[int, ...]]:
        with _told_of(left.refused):  # by now also those whose code was tried and is in the way
            return select(graph, remaining(ranked, left.groups), budget, allocation, constraints)

    with in_step():
        return cut(case.model, graph, chosen, choose, shown)


def _shown(batches: Calibration, graph: Graph) -> Inputs:
    """Return the inputs of the first calibration batch, at most sixteen samples where the batch is free.

    A process without a share of the data has the example.
    """
    args, kwargs = graph.program.example
    flat = next(iter(batches), None)
    if flat is None:
        return Inputs(args, kwargs)
    if graph.program.dynamic:
        flat = batches.take(flat, torch.arange(batches.samples(flat)) < SHOWN)
    args, kwargs = tree_unflatten(flat, tree_structure((args, dict(kwargs))))
    return Inputs(args, kwargs)


@contextmanager
def _told_of(refused: Mapping[str, str]) -> Iterator[None]:
    """Let a budget that is out of reach name the groups that might have helped."""
    try:
        yield
    except BudgetError as error:
        groups: dict[str, list[str]] = {}
        for name, reason in refused.items():
            groups.setdefault(reason, []).append(name)
        found = "; ".join(
            f"{', '.join(names[:3])}{' and more' if len(names) > 3 else ''}: {reason}"
            for reason, names in groups.items()
        )
        raise BudgetError(f"{error} Left whole: {found}." if found else str(error)) from None
