"""Methods that mask single weights while a network trains, and what is left of it without its dead units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from secateur.blocks import UNIFY, Blockable, BlockPattern
from secateur.case import Case
from secateur.graph.trace import traced
from secateur.ground.errors import BudgetError, StructureError, SurgeryError, TraceError
from secateur.methods.dead_units import without_dead_units
from secateur.methods.protocol import Draft, Evidence, Needs
from secateur.report import Approach, Sparsity, Structured
from secateur.selection import Budget
from secateur.statistics import state_tensors
from secateur.surgery.values import whole
from secateur.training import Attached, Masks, Rule, Trained, Training, attach, train
from secateur.training.log import Row
from secateur.training.parameters import parameters

from .blocks import summary

__all__ = ["OfWeights"]


@dataclass(frozen=True)
class OfWeights(ABC):
    """The base of methods that prune while a network trains; a subclass implements `prune`, and `rule` if it has one.

    Rounds of pruning and training follow one another until the budget is met, ``Budget(weights=0.1)``, or without a
    budget as far as the method's own rule goes. With a bound (`Validation`) the result is the sparsest network above
    it; a budget that is given as well has to be met, too. In the end units that nothing feeds or reads any more are
    removed, exactly. A run that goes on from an earlier result keeps its zeros and its shapes, dead units included.
    """

    @property
    def label(self) -> str:
        """What reports call it."""
        return type(self).__name__

    @property
    def needs(self) -> Needs:
        """What it has to be given."""
        return Needs(training=True, budgets=("weights",))

    @abstractmethod
    def prune(self, model: nn.Module, masks: Masks, share: float | None, batches: Iterable[Any]) -> Masks:
        """Return the next masks, within the given ones.

        `share` is that of all entries of the masks that is kept then; None leaves it to the method's own rule.
        `batches` are calibration data.
        """

    def names(self, model: nn.Module) -> tuple[str, ...]:
        """Return the parameters that may be masked: all of them, where a method does not say otherwise."""
        return tuple(parameters(model))

    def rule(self, model: nn.Module, masks: Masks, steps: int | None) -> Rule | None:
        """Return what acts in every optimiser step from now on, for so many steps; None where masks only hold."""
        return None

    def attach(
        self, model: nn.Module, optimizer: Optimizer, *, masks: Masks | None = None, steps: int | None = None
    ) -> Attached:
        """Start work on an optimiser of the model's parameters, from `masks` on, for so many optimiser steps.

        Raises:
            TrainingError: as `secateur.training.attach`, or `steps` is needed and missing.
        """
        start = Masks.full(model, self.names(model)) if masks is None else masks
        return attach(model, optimizer, masks=start, rule=self.rule(model, start, steps))

    def towards(self, share: float | None) -> tuple[OfWeights, float | None]:
        """Return the method and the share to run it with, for a budget of that share of the weights."""
        return self, share

    @property
    def least_epochs(self) -> int:
        """Epochs until the network is what the method promises, at most."""
        return 0

    def check(self, training: Training) -> None:
        """Refuse a training that the method cannot work with.

        Raises:
            StructureError: it is too short.
        """
        if training.epochs < self.least_epochs:
            name = type(self).__name__
            raise StructureError(
                f"{name} needs up to {self.least_epochs} epochs until it projects for the last time, and training has "
                f"{training.epochs}: give Training(epochs={self.least_epochs} or more), or lower {name}(epochs=...)."
            )

    def blocks(self, model: nn.Module) -> tuple[Mapping[str, BlockPattern], Blockable] | None:
        """Return the micro-structures that a trained model's weights obey, where the method makes such."""
        return None

    def draft(self, case: Case, budget: Budget | None) -> Draft:
        """Return a copy of the model with few connections, trained.

        Raises:
            BudgetError: the budget is not one of weights, or was not met; the message says how far the run came.
            StructureError: the method goes on from unified blocks, which training would part.
            BoundError: no network was above the bound; the message says how close one came.
            TrainingError: the loss, a gradient or the metric is not finite; the last checkpoint stays as it is.
            CheckpointError: the folder holds another run, or a checkpoint that cannot be read.
            DataError: the loader is empty, or yields something else than (inputs, labels).
        """
        assert case.training is not None  # `needs` says so
        return _draft(self, case, budget, case.training)


def _draft(method: OfWeights, case: Case, budget: Budget | None, training: Training) -> Draft:
    total = sum(p.numel() for p in case.dense.parameters())
    _check(method, case, training)
    target = None if budget is None else budget.absolute(total)
    with case.phase("training"):
        entries = sum(p.numel() for p in case.model.parameters())
        runs, share = method.towards(None if target is None else min(target / entries, 1.0))
        found = train(
            case.model,
            runs,
            training,
            share=share,
            masks=_zeros(case),
            calibration=case.calibration,
            seed=case.seed,
        )
    if target is not None and found.masks.kept > target * 1.01 + 1:
        raise BudgetError(_too_many(found, budget))
    with case.phase("removal"):
        draft = _smaller(method, case, found)
    masks = found.masks if draft.masks is None else draft.masks
    with case.phase("measurement"):
        curve = ((row.share, row.metric) for row in found.rows if row.metric is not None)
        sparsity = Sparsity.of(case.dense, draft.model, masks.kept, curve)
    evidence = Evidence(**{**vars(draft.evidence), "sparsity": sparsity})
    return Draft(draft.model, draft.plan, "finetuned", evidence, _asked(budget, training), None, masks, found)


def _check(method: OfWeights, case: Case, training: Training) -> None:
    if any(bool((pattern.states == UNIFY).any()) for pattern in case.patterns.values()):
        raise StructureError(
            f"{method.label} would part the unified blocks of what it goes on from: train first, and unify by "
            "MicroStructured or by ADMM afterwards."
        )
    method.check(training)


def _zeros(case: Case) -> Masks | None:
    """Return what the earlier result left, where it has zeros that are to stay."""
    if case.earlier is None:
        return None
    masks = Masks({name: pattern.mask() for name, pattern in case.patterns.items()})
    return masks if case.earlier.masks is None else masks & case.earlier.masks


def _smaller(method: OfWeights, case: Case, found: Trained) -> Draft:
    """Remove the units that nothing feeds or reads any more.

    A network that cannot be traced keeps its shapes, and so does one with micro-structures, whose blocks lie in them,
    or with an earlier plan, whose edits are for its shapes.
    """
    made = method.blocks(found.model)
    patterns = dict(case.patterns) | (dict(made[0]) if made is not None else {})
    if patterns or case.start is not None:
        structure = _structure(case, found.model, patterns, made)
        if structure is not None:
            structure = replace(structure, approach=_approach(found.rows))
        evidence = Evidence(structure=structure)
        return Draft(found.model, case.plan(found.model, patterns), evidence=evidence)
    try:
        removal = without_dead_units(found.model, case.inputs)
    except (TraceError, SurgeryError) as error:
        evidence = Evidence(refused={"all dead units": str(error)})
        return Draft(found.model, whole(found.model), evidence=evidence)
    # A constant may have moved into a bias that was masked, so masks are read off the weights.
    masks = Masks({name: p.detach() != 0 for name, p in parameters(removal.model).items()})
    evidence = Evidence(removal.verification.max_difference, removal.units, refused=removal.refused)
    return Draft(removal.model, removal.plan, evidence=evidence, masks=masks)


def _structure(
    case: Case,
    model: nn.Module,
    patterns: Mapping[str, BlockPattern],
    made: tuple[Mapping[str, BlockPattern], Blockable] | None,
) -> Structured | None:
    """Return what the report says of blocks; nothing where there are none, or where the model cannot be traced."""
    if not patterns:
        return None
    try:
        graph = traced(model, case.inputs)
    except TraceError:
        return None
    return summary(graph, state_tensors(graph.program), patterns, None if made is None else made[1])


def _approach(rows: Iterable[Row]) -> Approach | None:
    """Return how the run came to its blocks, where its log says it."""
    for row in reversed(tuple(rows)):
        if None not in (found := (row.primal, row.dual, row.same, row.magnitude)):
            return Approach(*found)  # type: ignore[arg-type]
    return None


def _asked(budget: Budget | None, training: Training) -> str:
    bound = training.validation.bound if training.validation is not None else None
    wishes = [str(wish) for wish in (budget, bound) if wish is not None]
    return ", ".join(wishes) or "as far as the method goes"


def _too_many(found: Trained, budget: Budget | None) -> str:
    metric = "" if found.metric is None else f", with the metric {found.metric:.5g}"
    return (
        f"The budget ({budget}) is out of reach of this run: the network that it chose keeps "
        f"{found.masks.share:.2%} of the weights ({found.masks.kept:,} of {found.masks.total:,}){metric}. Ask for "
        "that, lower the bound, or train longer."
    )
