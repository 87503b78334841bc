"""Latency budgets: select by a table of times, cut, measure what came out, and correct the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from secateur.graph import Graph, Kept
from secateur.ground.errors import BudgetError
from secateur.ground.inputs import Example, Inputs
from secateur.ground.processes import in_step, processes, summed
from secateur.ground.progress import working
from secateur.measure import Operation, Timer, latency_model
from secateur.selection import (
    Allocation,
    Budget,
    Constraints,
    Ranked,
    out_of_reach,
    remaining,
    select,
    smallest,
)
from secateur.selection.settle import settle
from secateur.surgery.candidates import Candidates
from secateur.surgery.cutting import Cut, cut

__all__ = ["cut_to_latency"]


def cut_to_latency(
    model: nn.Module,
    graph: Graph,
    chosen: Candidates,
    ranked: Sequence[Ranked],
    budget: Budget,
    allocation: Allocation,
    constraints: Constraints,
    inputs: Inputs,
    example: Inputs,
    timer: Timer,
) -> Cut:
    """Cut a copy of the model whose measured latency on `example` is within 5 % below the budget, where widths allow.

    No table is the truth, so that only its order of removal and its first guess count: each cut is timed beside the
    dense model, and the target that the table is given is corrected until what is measured fits. Of several processes
    each measures, and their mean decides.

    Raises:
        BudgetError: the smallest model that can be had takes longer; the message says how long.
        SurgeryError: as `secateur.cutting.cut`.
    """
    timer = _Agreed(timer)
    cost = latency_model(model, graph, chosen.groups, example, timer)
    dense = cost(graph, {})
    if not ranked:
        raise BudgetError(out_of_reach(graph, budget, dense, dense, "no group of this model may be pruned"))
    low = cost(graph, smallest(ranked, constraints))
    candidates, entries = chosen, list(ranked)
    tried: dict[float, Kept] = {}
    timed: dict[_Key, _Timed] = {}

    def pick(left: Sequence[Ranked], target: float) -> Kept:
        # Where groups had to be left out, the least target is no longer in reach.
        reach = cost(graph, smallest(left, constraints))
        return select(graph, left, Budget(latency_ms=max(target, reach)), allocation, constraints, cost)

    def level(target: float) -> float:
        nonlocal candidates, entries
        kept = pick(entries, target)
        if _key(kept) not in timed:
            with working("cutting"), in_step():
                made = cut(
                    model,
                    graph,
                    candidates,
                    lambda left: pick(remaining(entries, left.groups), target),
                    inputs,
                )
            candidates, entries = made.candidates, remaining(entries, made.candidates.groups)
            # Without a spinner: it would be timed, too.
            timed[_key(kept)] = _Timed(made, *timer.models([model, made.model], example))
        tried[target] = kept
        found = timed[_key(kept)]
        return found.ms / budget.absolute(found.dense_ms)

    target = settle(level, 0.975 * budget.absolute(dense), low, dense)
    best = timed[_key(tried[low if target is None else target])]
    if target is None:
        floor = "every group is at its floor, and the smallest model was timed"
        raise BudgetError(out_of_reach(graph, budget, best.dense_ms, best.ms, floor))
    return best.cut


_Key = tuple[tuple[str, tuple[int, ...]], ...]


def _key(kept: Kept) -> _Key:
    return tuple(sorted(kept.items()))


@dataclass(frozen=True)
class _Timed:
    """A cut, and what the dense model and it took in turns."""

    cut: Cut
    dense_ms: float
    ms: float


@dataclass(frozen=True)
class _Agreed:
    """A timer whose numbers are the mean over all processes, so that all of them decide alike."""

    timer: Timer

    def operations(self, operations: Sequence[Operation], batch: int) -> Mapping[Operation, float]:
        """Return the mean milliseconds of each operation."""
        with in_step():
            times = self.timer.operations(operations, batch)
        distinct = list(dict.fromkeys(operations))
        return dict(zip(distinct, _mean([times[o] for o in distinct]), strict=True))

    def models(self, models: Sequence[nn.Module], inputs: Example) -> Sequence[float]:
        """Return the mean milliseconds of each model."""
        with in_step():
            times = self.timer.models(models, inputs)
        return _mean(times)


def _mean(times: Sequence[float]) -> list[float]:
    mean: list[float] = (summed(torch.tensor(times, dtype=torch.float64)) / processes()).tolist()
    return mean
