"""Methods that choose blocks of weights: price, choose within shares or a budget, solve what is left again."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from secateur.blocks import (
    SKIPPED,
    UNIFY,
    ZERO,
    Assignment,
    Block,
    Blockable,
    BlockPattern,
    Costs,
    Counted,
    Joint,
    Partition,
    Skip,
    blockable,
    counted,
)
from secateur.blocks.projection import check_shares
from secateur.blocks.spread import EachLayer, Shares, Spread
from secateur.case import Case
from secateur.graph import Graph
from secateur.ground.copies import copied
from secateur.ground.errors import BudgetError, StructureError
from secateur.ground.inputs import Inputs
from secateur.ground.modes import evaluating, exact_products
from secateur.ground.patterns import check_patterns, matches
from secateur.ground.processes import digest, require_same
from secateur.ground.tensors import floating, tensors_of
from secateur.methods.protocol import Draft, Evidence, Needs
from secateur.recovery import Compensate
from secateur.report import LayerBlocks, Structured
from secateur.runtime.timer import BlockTimer, CompiledTimer
from secateur.selection import Budget
from secateur.statistics import Statistics, collect
from secateur.surgery import apply

from .block_latency import shares_within_latency

__all__ = ["OfBlocks", "summary"]


@dataclass(frozen=True)
class OfBlocks(ABC):
    """The base of methods that choose blocks of weights; a subclass implements `price`.

    `zero` and `unify` are shares of all blocks: 70 % zeros and half of the rest unified are ``zero=0.7, unify=0.15``.
    `shares` gives layers that globs over module paths name other ones, `blocks` other blocks. `skip` names what
    stays whole, by globs, types, or places; biases always do. `assignment` decides in a layer, `spread` between layers.
    What is left is solved again on calibration data by `recovery`; without data weights are projected, and nothing is
    repaired.

    With a budget of MACs or bytes the shares of zero blocks follow from it (counted, as shares of what the given
    model's shapes take dense), and all layers had better compete (``spread=AcrossLayers()``). With one of latency they
    follow, layer by layer, from times of the compiled network on the example inputs, a share being one of the
    compiled dense model's time; the report then compares the two compiled.

    Raises:
        StructureError: a share is out of range, or both together are more than all blocks.
    """

    block: Block = Block(8, 1)  # noqa: RUF009 - frozen
    zero: float = 0.7
    unify: float = 0.0
    shares: Mapping[str, Shares] = field(default_factory=dict)
    blocks: Mapping[str, Block] = field(default_factory=dict)
    skip: tuple[Skip, ...] = SKIPPED
    assignment: Assignment = field(default_factory=Joint)
    spread: Spread = field(default_factory=EachLayer)
    recovery: Compensate | None = field(default_factory=Compensate)

    def __post_init__(self) -> None:
        check_shares(self.zero, self.unify)
        if not isinstance(self.block, Block):
            raise StructureError(f"block={self.block!r} is no Block: write Block(8, 1).")

    @property
    def label(self) -> str:
        """What reports call it."""
        parts = [f"{100 * n:g} % {what}" for n, what in ((self.zero, "zero"), (self.unify, "unified")) if n]
        return ", ".join([f"{self.block} blocks", *parts])

    @property
    def needs(self) -> Needs:
        """What it has to be given."""
        return Needs(budgets=("macs", "bytes", "latency", "latency_ms"))

    @abstractmethod
    def price(
        self,
        graph: Graph,
        partitions: Mapping[str, Partition],
        tensors: Mapping[str, Tensor],
        statistics: Statistics | None,
    ) -> dict[str, Costs]:
        """Return what each block of each weight costs; `statistics` are there where `needs` asks for patches."""

    def layers(self, model: nn.Module) -> Blockable:
        """Return what is cut into blocks in a model, and why the rest is not. Raises as `blockable`."""
        return blockable(model, self.block, self.skip, self.blocks)

    def observed(self, model: nn.Module) -> dict[str, BlockPattern]:
        """Return the patterns that a model's weights obey as they are."""
        return {
            name: BlockPattern.observed(partition, model.get_parameter(name))
            for name, partition in self.layers(model).partitions.items()
        }

    def patterns(
        self,
        model: nn.Module,
        partitions: Mapping[str, Partition],
        costs: Mapping[str, Costs],
        within: Mapping[str, BlockPattern] | None = None,
    ) -> dict[str, BlockPattern]:
        """Return a pattern for each weight; blocks that `within` has changed already stay so, and count.

        Raises:
            UnknownNameError: a glob of `shares` matches no module.
            StructureError: the shares cannot be had.
        """
        check_patterns(model, self.shares, "shares")
        shares = {name: self.shares_of(model, name) for name in partitions}
        return self.spread(partitions, costs, shares, self.assignment, within or {})

    def shares_of(self, model: nn.Module, weight: str) -> Shares:
        """Return the shares of a weight: those of the last glob that matches its module, else the method's."""
        own = [s for g, s in self.shares.items() if matches(model, weight.rpartition(".")[0], g)]
        return own[-1] if own else Shares(self.zero, self.unify)

    def draft(self, case: Case, budget: Budget | None) -> Draft:
        """Return a copy of the model with zero and unified blocks, in its own shapes.

        Raises:
            StructureError: no weight can be cut into such blocks, or the shares cannot be had.
            BudgetError: the budget has another unit, or cannot be met; the message says how far the model can go.
            CalibrationError: calibration data are empty, of wrong shape or make values that are not finite.
            UnknownNameError: a glob of the method matches nothing.
        """
        with exact_products():
            return _draft(self, case, budget)


def _draft(method: OfBlocks, case: Case, budget: Budget | None) -> Draft:
    graph, layers = case.graph, method.layers(case.model)
    clock = None
    if budget is not None and budget.timed:
        clock = case.timer if isinstance(case.timer, BlockTimer) else CompiledTimer()
    statistics = None
    if case.calibration is not None and method.needs.patches:
        with case.phase("statistics"):
            nodes = [layer.node for layer in graph.layers if layer.weight in layers.partitions]
            statistics = collect(graph, (), case.batches, layers=nodes, patches=True, seed=case.seed)
    with case.phase("selection"):
        costs = method.price(graph, layers.partitions, case.tensors, statistics)
        reference = case.dense if clock is None else clock.compile(case.dense, case.inputs).network
        choice = _Choice(method, case, layers, costs)
        if budget is None:
            chosen = choice.by_method()
        elif clock is not None:
            shares = shares_within_latency(reference, costs, choice.filled, budget, case.inputs, clock)
            chosen = choice.with_zeros(shares)
        else:
            chosen = choice.within(budget)
        patterns = dict(case.patterns) | chosen
    states = {name: pattern.states for name, pattern in patterns.items()}
    require_same(digest(states), "selection", "give each the same options and weights")
    projected = {n: patterns[n].project(t) if n in patterns else t for n, t in case.tensors.items()}
    pruned = _filled(case.model, projected)
    case.score("pruned", pruned)
    recovers = method.recovery is not None and case.calibration is not None
    smaller = pruned
    if method.recovery is not None and recovers:
        with case.phase("recovery"):
            final = method.recovery(graph, patterns, case.tensors, case.batches, case.seed)
            smaller = _filled(case.model, final)
    plan = case.plan(smaller, patterns)
    applied = apply(case.dense, plan)
    evidence = Evidence(
        max_masked_difference=_difference(smaller, applied, case.inputs),
        structure=summary(graph, case.tensors, patterns, layers),
    )
    asked = "shares of blocks" if budget is None else f"{budget}{', compiled' if clock else ''}"
    timed = None if clock is None else (reference, clock.compile(applied, case.inputs).network)
    return Draft(applied, plan, "recovered" if recovers else "pruned", evidence, asked, timed)


@dataclass(frozen=True)
class _Choice:
    """Patterns of a case's weights, by the method's shares or by a budget; what is zero or unified already stays so."""

    method: OfBlocks
    case: Case
    layers: Blockable
    costs: Mapping[str, Costs]

    @property
    def inside(self) -> dict[str, BlockPattern]:
        return {n: p for n, p in self.case.patterns.items() if n in self.layers.partitions}

    def by_method(self, zero: float | None = None) -> dict[str, BlockPattern]:
        """Return the patterns with the method's shares, or with another share of zeros."""
        method = self.method if zero is None else replace(self.method, zero=zero)
        return method.patterns(self.case.model, self.layers.partitions, self.costs, self.inside)

    def with_zeros(self, zeros: Mapping[str, float]) -> dict[str, BlockPattern]:
        """Return the patterns of layers that have given shares of zero blocks."""
        shares, inside = {}, self.inside
        for name in self.layers.partitions:
            old = inside.get(name)
            unify = max(self.method.shares_of(self.case.model, name).unify, old.share(UNIFY) if old else 0.0)
            zero = max(min(zeros[name], 1 - unify), old.share(ZERO) if old else 0.0)
            shares[name] = Shares(zero, min(unify, 1 - zero))
        return EachLayer()(self.layers.partitions, self.costs, shares, self.method.assignment, inside)

    def filled(self, zeros: Mapping[str, float]) -> nn.Module:
        """Return the network with given shares of zero blocks, projected."""
        patterns = dict(self.case.patterns) | self.with_zeros(zeros)
        return _filled(self.case.model, {n: p.project(self.case.tensors[n]) for n, p in patterns.items()})

    def within(self, budget: Budget) -> dict[str, BlockPattern]:
        """Return the patterns with the least share of zeros that meets a budget of MACs or bytes."""
        if budget.unit not in ("macs", "bytes") or not budget.is_share:
            raise BudgetError(
                f"Blocks are budgeted in shares of macs or bytes, as Budget(bytes=0.3), or in latency, not {budget!r}."
            )

        def level(patterns: Mapping[str, BlockPattern]) -> float:
            found = _counted(self.case.graph, self.case.tensors, dict(self.case.patterns) | dict(patterns))
            return found.operations if budget.unit == "macs" else found.stored_bits

        partitions, method = self.layers.partitions, self.method
        count = sum(p.count for p in partitions.values())
        room = sum(method.spread.room(p) for p in partitions.values())
        low, high = 0, min(room, math.floor((1 - method.unify) * count))
        best = self.by_method(high / count)
        if level(best) > budget.value:
            whole = ", ".join(f"{name} ({why})" for name, why in list(self.layers.skipped.items())[:5])
            raise BudgetError(
                f"The budget of {budget} is out of reach: with {high / count:.1%} of the blocks zero the model keeps "
                f"{level(best):.1%}. What stays whole: {whole or 'nothing'}; change skip, or ask for more."
            )
        while low < high:
            middle = (low + high) // 2
            found = self.by_method(middle / count)
            if level(found) <= budget.value:
                high, best = middle, found
            else:
                low = middle + 1
        return best


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


def _filled(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a model with other values."""
    filled = copied(model)
    known = tensors_of(filled)
    with torch.no_grad():
        for name, value in tensors.items():
            if name in known:
                known[name].copy_(value)
    return filled


def _difference(a: nn.Module, b: nn.Module, inputs: Inputs) -> float:
    """Return the largest difference of two models' outputs: the plan's model must be the one that was solved."""
    with evaluating(a, b), torch.no_grad():
        pairs = zip(floating([inputs(a)]), floating([inputs(b)]))
        return max((float((x - y).abs().max()) for x, y in pairs), default=0.0)
