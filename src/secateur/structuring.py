"""Micro-structures without training: choose blocks, compensate, plan, apply, measure."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.ground.tensors import tensors_of

from .api import Evaluate, Result, timed
from .blocks import UNIFY, ZERO, BlockPattern, Costs
from .blocks.blockable import Blockable
from .blocks.counted import Counted, counted
from .graph import Graph, trace
from .ground.errors import BudgetError
from .ground.inputs import Inputs
from .ground.processes import digest, require_same
from .ground.progress import silenced
from .measure import compare_latency, environment, evaluating, size
from .methods.block_costs import Criterion, WeightError
from .methods.kinds.block_latency import shares_within_latency
from .methods.microstructure import EachLayer, MicroStructured, Shares
from .recovery import Compensate
from .report import Accuracy, LayerBlocks, Report, Structured
from .runtime.timer import BlockTimer, CompiledTimer
from .selection import Budget
from .starting import Start
from .statistics import collect, state_tensors
from .surgery import apply
from .training.describe import describe

__all__ = ["micro_structure", "summary"]


@dataclass(frozen=True)
class _Shares:
    """Networks whose layers have given shares of zero blocks."""

    method: MicroStructured
    model: nn.Module
    layers: Blockable
    costs: Mapping[str, Costs]
    tensors: Mapping[str, Tensor]
    within: Mapping[str, BlockPattern]

    def patterns(self, zeros: Mapping[str, float]) -> dict[str, BlockPattern]:
        """Return the patterns; what is zero or unified already stays so, whatever the shares say."""
        shares = {}
        for name in self.layers.partitions:
            old = self.within.get(name)
            unify = max(self.method.shares_of(self.model, name).unify, old.share(UNIFY) if old else 0.0)
            zero = max(min(zeros[name], 1 - unify), old.share(ZERO) if old else 0.0)
            shares[name] = Shares(zero, min(unify, 1 - zero))
        inside = {name: self.within[name] for name in self.layers.partitions if name in self.within}
        return EachLayer()(self.layers.partitions, self.costs, shares, self.method.assignment, inside)

    def filled(self, zeros: Mapping[str, float]) -> nn.Module:
        """Return the network, projected."""
        patterns = dict(self.within) | self.patterns(zeros)
        return _filled(self.model, {name: p.project(self.tensors[name]) for name, p in patterns.items()})


def micro_structure(
    model: nn.Module | Result,
    example_inputs: Tensor | tuple[Any, ...] | Mapping[str, Any],
    *,
    method: MicroStructured,
    calibration: Iterable[Any] | None = None,
    budget: Budget | None = None,
    criterion: Criterion = WeightError(),  # noqa: B008 - frozen
    recovery: Compensate | None = Compensate(),  # noqa: B008 - frozen
    dense: nn.Module | None = None,
    evaluate: Evaluate | None = None,
    timer: BlockTimer | None = None,
    progress: bool = True,
    seed: int = 0,
) -> Result:
    """Return a copy of a model whose weights have zero and unified blocks, repaired and measured, in its own shapes.

    `model` may be the result of `prune` or of this function, whose plan then goes on: blocks that are zero or unified
    already stay so and count; give the `dense` model that it began with. The shares are the method's; with a
    `budget` of MACs or bytes those of zero blocks follow from it (counted, as shares of what the given model's shapes
    take dense), and all layers had better compete (``spread=AcrossLayers()``). With one of latency they follow, layer
    by layer, from times of the compiled network on the example inputs (`timer`, default: on this machine), a share
    being one of the compiled dense model's time; the report then compares the two compiled. `criterion` prices blocks.
    `calibration` yields a few hundred inputs without labels, on which what is left is solved again (`recovery`);
    without them weights are projected, and nothing is repaired. `evaluate` scores a model, higher is better.

    Raises:
        TraceError: the model cannot be exported.
        StructureError: no weight can be cut into such blocks, or the shares cannot be had.
        BudgetError: the budget has another unit, or cannot be met; the message says how far the model can go.
        CalibrationError: calibration data are empty, of wrong shape or make values that are not finite.
        UnknownNameError: a glob of the method matches nothing.

    >>> import secateur as sc
    >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    >>> x = torch.randn(256, 8)
    >>> result = sc.micro_structure(net, x[:2], method=sc.MicroStructured(sc.Block(4, 1), zero=0.5), calibration=[x])
    >>> result.plan.patterns["0.weight"].share(1), float((result.model[0].weight == 0).float().mean())
    (0.5, 0.5)
    """
    begun = Start.of(model, dense)
    start, original = begun.model, begun.dense
    inputs = Inputs.of(example_inputs)
    args, kwargs = inputs.args, inputs.kwargs
    calibration = list(calibration) if isinstance(calibration, Iterator) else calibration
    clock = (timer or CompiledTimer()) if budget is not None and budget.timed else None
    seconds: dict[str, float] = {}
    with silenced(not progress):
        with timed(seconds, "trace"):
            graph = trace(start, *args, **kwargs)
            tensors = state_tensors(graph.program)
            layers = method.layers(start)
        statistics = None
        if calibration is not None and criterion.calibrated:
            with timed(seconds, "statistics"):
                nodes = [layer.node for layer in graph.layers if layer.weight in layers.partitions]
                statistics = collect(graph, (), calibration, layers=nodes, patches=True, seed=seed)
        with timed(seconds, "selection"):
            costs = criterion(graph, layers.partitions, tensors, statistics)
            within = begun.patterns
            reference = _as_run(original, inputs, clock)
            if budget is not None and clock is not None:
                shares = _Shares(method, start, layers, costs, tensors, within)
                found = shares_within_latency(reference, costs, shares.filled, budget, inputs, clock)
                chosen = shares.patterns(found)
            else:
                chosen = _chosen(method, start, graph, layers, costs, tensors, within, budget)
            patterns = dict(within) | chosen
        states = {name: pattern.states for name, pattern in patterns.items()}
        require_same(digest(states), "selection", "give each the same options and weights")
        projected = {n: patterns[n].project(t) if n in patterns else t for n, t in tensors.items()}
        final, recovered = projected, None
        with timed(seconds, "recovery"):
            if recovery is not None and calibration is not None:
                final = recovery(graph, patterns, tensors, calibration, seed)
                recovered = True
        pruned = _filled(start, projected)
        smaller = _filled(start, final) if recovered else pruned
        plan = begun.plan(smaller, patterns)
        applied = apply(original, plan)
        accuracy = None
        if evaluate is not None:
            with timed(seconds, "evaluation"):
                accuracy = Accuracy(
                    evaluate(original), evaluate(pruned), evaluate(applied) if recovered else None
                )
        with timed(seconds, "measurement"):
            report = Report(
                method=method.label,
                budget="shares of blocks" if budget is None else f"{budget}{', compiled' if clock else ''}",
                before=size(original, inputs),
                after=size(applied, inputs),
                max_masked_difference=_difference(smaller, applied, args, kwargs),
                seconds=seconds,
                environment=environment(),
                seed=seed,
                latency=compare_latency(reference, _as_run(applied, inputs, clock), inputs),
                accuracy=accuracy,
                model=type(original).__name__,
                structure=summary(graph, tensors, patterns, layers),
            )
    recipe = {
        "method": describe(method),
        "budget": None if budget is None else {budget.unit: budget.value},
        "criterion": describe(criterion),
        "recovery": describe(recovery) if recovered else None,
        "seed": seed,
    }
    return Result(applied, plan, replace(begun.report(report), recipe=begun.recipe(recipe)))


def summary(
    graph: Graph,
    tensors: Mapping[str, Tensor],
    patterns: Mapping[str, BlockPattern],
    layers: Blockable | None = None,
) -> Structured:
    """Return what a report says of patterns; `tensors` are those of the traced model."""
    found = _counted(graph, tensors, patterns)
    return Structured(
        found.stored_bits,
        found.coded_bits,
        found.operations,
        {
            name: LayerBlocks(
                str(p.partition.block),
                p.partition.count,
                int((p.states == ZERO).sum()),
                int((p.states == UNIFY).sum()),
            )
            for name, p in patterns.items()
        },
        dict(layers.skipped) if layers is not None else {},
    )


def _counted(graph: Graph, tensors: Mapping[str, Tensor], patterns: Mapping[str, BlockPattern]) -> Counted:
    parameters = {names[0] for names in graph.program.parameters.values()} & tensors.keys()
    trained = {n: tensors[n] for n in parameters if tensors[n].is_floating_point()}
    return counted(graph, trained, patterns)


def _chosen(
    method: MicroStructured,
    model: nn.Module,
    graph: Graph,
    layers: Blockable,
    costs: Mapping[str, Costs],
    tensors: Mapping[str, Tensor],
    within: Mapping[str, BlockPattern],
    budget: Budget | None,
) -> dict[str, BlockPattern]:
    """Return the patterns: with the method's shares, or with the least share of zeros that meets the budget."""
    inside = {name: pattern for name, pattern in within.items() if name in layers.partitions}

    def tried(zero: float) -> dict[str, BlockPattern]:
        return replace(method, zero=zero).patterns(model, layers.partitions, costs, inside)

    if budget is None:
        return tried(method.zero)
    if budget.unit not in ("macs", "bytes") or not budget.is_share:
        raise BudgetError(
            f"Blocks are budgeted in shares of macs or bytes, as Budget(bytes=0.3), or in latency, not {budget!r}."
        )

    def level(patterns: Mapping[str, BlockPattern]) -> float:
        found = _counted(graph, tensors, dict(within) | dict(patterns))
        return found.operations if budget.unit == "macs" else found.stored_bits

    count = sum(p.count for p in layers.partitions.values())
    room = sum(method.spread.room(p) for p in layers.partitions.values())
    low, high = 0, min(room, math.floor((1 - method.unify) * count))
    best = tried(high / count)
    if level(best) > budget.value:
        whole = ", ".join(f"{name} ({why})" for name, why in list(layers.skipped.items())[:5])
        raise BudgetError(
            f"The budget of {budget} is out of reach: with {high / count:.1%} of the blocks zero the model keeps "
            f"{level(best):.1%}. What stays whole: {whole or 'nothing'}; change skip, or ask for more."
        )
    while low < high:
        middle = (low + high) // 2
        found = tried(middle / count)
        if level(found) <= budget.value:
            high, best = middle, found
        else:
            low = middle + 1
    return best


def _as_run(model: nn.Module, inputs: Inputs, clock: BlockTimer | None) -> nn.Module:
    """Return what is timed: the compiled network where compiled networks are budgeted."""
    return model if clock is None else clock.compile(model, inputs).network


def _filled(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a model with other values."""
    filled = copy.deepcopy(model)
    known = tensors_of(filled)
    with torch.no_grad():
        for name, value in tensors.items():
            if name in known:
                known[name].copy_(value)
    return filled


def _difference(a: nn.Module, b: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """Return the largest difference of two models' outputs: the plan's model must be the one that was solved."""
    with evaluating(a, b), torch.no_grad():
        pairs = zip(tree_leaves(a(*args, **kwargs)), tree_leaves(b(*args, **kwargs)))
        worst = [
            float((x - y).abs().max()) for x, y in pairs if isinstance(x, Tensor) and x.is_floating_point()
        ]
    return max(worst, default=0.0)
