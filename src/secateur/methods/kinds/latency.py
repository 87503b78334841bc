"""Latency budgets: select by a table of times, cut, measure what came out, and correct the target."""

from __future__ import annotations

import logging
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

_log = logging.getLogger("secateur")


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
        _refuse_overhead(graph, list(timed.values()), found, budget)
        return found.ms / budget.absolute(found.dense_ms)

    target = settle(level, 0.975 * budget.absolute(dense), low, dense)
    best = timed[_key(tried[low if target is None else target])]
    _warn_of_overhead(graph, list(timed.values()), best)
    if target is None:
        floor = "every group is at its floor (the smallest model was timed)"
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


GAIN = 0.03  # of the dense time: what halving the work has to save at least


def _refuse_overhead(graph: Graph, timed: Sequence[_Timed], last: _Timed, budget: Budget) -> None:
    """Refuse to cut further where half of the work left takes as long: what is left is overhead.

    Raises:
        BudgetError: the budget is not met, and a further cut buys no time.
    """
    if last.ms <= budget.absolute(last.dense_ms):
        return
    work = graph.total_macs(last.cut.kept)
    for other in timed:
        more = graph.total_macs(other.cut.kept)
        if work <= more / 2 and other.ms - last.ms < GAIN * last.dense_ms:
            dense = graph.total_macs()
            raise BudgetError(
                f"The budget ({budget}) is out of reach: with {more / dense:.1%} of the MACs the model takes "
                f"{other.ms:.3g} ms, with {work / dense:.1%} still {last.ms:.3g} of {last.dense_ms:.3g}: what "
                "is left is overhead, and a further cut buys no time. Ask for more, time larger batches, or give the "
                "model to a runtime that fuses calls."
            )


def _warn_of_overhead(graph: Graph, timed: Sequence[_Timed], best: _Timed) -> None:
    """Warn where a network with four times the work left was nearly as fast."""
    work = graph.total_macs(best.cut.kept)
    for other in timed:
        more = graph.total_macs(other.cut.kept)
        if other is not best and work < more / 4 and other.ms - best.ms < 2 * GAIN * best.dense_ms:
            dense = graph.total_macs()
            _log.warning(
                "The latency budget took %.1f%% of the MACs; with %.1f%% left the model was nearly as fast "
                "(%.3g ms, not %.3g): ask for a little more time.",
                100 * (1 - work / dense),
                100 * more / dense,
                other.ms,
                best.ms,
            )
            return


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
