"""Pruning with training, from the first round to the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from .api import Evaluate, Result, timed
from .blocks import UNIFY
from .graph import trace
from .ground.errors import BudgetError, StructureError, SurgeryError, TraceError
from .ground.inputs import Inputs
from .ground.progress import silenced
from .measure import compare_latency, environment, size
from .methods import ADMM, GradualMagnitude
from .methods.dead_units import without_dead_units
from .report import Accuracy, Report, Sparsity, Structured, zipped_bytes
from .selection import Budget
from .starting import Start
from .statistics import state_tensors
from .structuring import summary
from .surgery import Plan
from .surgery.fingerprint import fingerprint
from .training import Masks, Trained, Training, TrainingMethod, describe, train
from .training.parameters import parameters

__all__ = ["SparseResult", "prune_in_training"]


@dataclass(frozen=True)
class SparseResult(Result):
    """A network with few connections, without dead units.

    To train it further, attach `masks`, which are true where its weights are not zero. `trained` has the log of the
    run, and the network and its masks in the dense model's shapes.
    """

    masks: Masks
    trained: Trained


def prune_in_training(
    model: nn.Module | Result,
    example_inputs: Tensor | tuple[Any, ...] | Mapping[str, Any],
    *,
    method: TrainingMethod,
    training: Training,
    budget: Budget | None = None,
    calibration: Iterable[Any] | None = None,
    dense: nn.Module | None = None,
    evaluate: Evaluate | None = None,
    progress: bool = True,
    seed: int = 0,
) -> SparseResult:
    """Return a copy of a model with few connections, trained and measured; the model stays as it is.

    Rounds of pruning and training follow one another until the budget is met, ``Budget(weights=0.1)``, or without
    a budget as far as the method's own rule goes; `GradualMagnitude` goes to the budget within a round, while it
    trains. With a bound (`Validation`) the result is the sparsest network above it; a budget that is given as well
    has to be met, too. In the end units that nothing feeds or reads any more are removed, exactly
    (`secateur.remove_dead_units`). `calibration` yields inputs that the method scores on, without random augmentation
    (default: the training data). `evaluate` scores the dense model and the result, for instance on a test set; it
    decides nothing. With a checkpoint folder a run can be killed and resumed. Under ``accelerate launch`` or torchrun
    every process gives the same arguments; let one of them save the result.

    `model` may be the result of `prune` or `micro_structure`, whose plan then goes on: what is zero in it stays zero,
    and its shapes stay, dead units included; give the `dense` model that it began with, which the budget refers to.

    Raises:
        BudgetError: the budget is not one of weights, or was not met; the message says how far the run came.
        StructureError: ADMM is given too few epochs, or goes on from unified blocks, which training would part.
        BoundError: no network was above the bound; the message says how close one came.
        TrainingError: the loss, a gradient or the metric is not finite; the last checkpoint stays as it is.
        CheckpointError: the folder holds another run, or a checkpoint that cannot be read.
        DataError: the loader is empty, or yields something else than (inputs, labels).

    >>> import torch, secateur as sc
    >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    >>> x, y = torch.randn(256, 8), torch.randint(0, 4, (256,))
    >>> training = sc.Training(list(zip(x.split(32), y.split(32))), epochs=2, iterations=2)
    >>> result = sc.prune(net, x, method=sc.IrrelevanceDecay(), training=training, budget=sc.Budget(weights=0.5))
    >>> round(result.trained.masks.share, 2)
    0.5
    """
    inputs = Inputs.of(example_inputs)
    args, kwargs = inputs.args, inputs.kwargs
    begun = Start.of(model, dense)
    start, original = begun.model, begun.dense
    total = sum(p.numel() for p in original.parameters())
    _check(begun, method, training)
    if budget is not None and budget.unit != "weights":
        raise BudgetError(
            f"{method.label} removes single weights: budget them, Budget(weights=0.1), not {budget.unit}."
        )
    target = None if budget is None else budget.absolute(total)
    seconds: dict[str, float] = {}
    with silenced(not progress):
        with timed(seconds, "training"):
            share = None if target is None else min(target / sum(p.numel() for p in start.parameters()), 1.0)
            if share is not None and isinstance(method, GradualMagnitude):
                # It goes down by itself while it trains: the budget is where it ends, not what a round starts with.
                method, share = replace(method, share=share), None
            masks = _kept(begun)
            found = train(
                start, method, training, share=share, masks=masks, calibration=calibration, seed=seed
            )
        if target is not None and found.masks.kept > target * 1.01 + 1:
            raise BudgetError(_too_many(found, budget))
        with timed(seconds, "removal"):
            left = _left(begun, found, method, example_inputs)
        accuracy = None
        if evaluate is not None:
            with timed(seconds, "evaluation"):
                accuracy = Accuracy(evaluate(original), finetuned=evaluate(left.model))
        with timed(seconds, "measurement"):
            report = Report(
                method=method.label,
                budget=_asked(budget, training),
                before=size(original, inputs),
                after=size(left.model, inputs),
                max_masked_difference=left.difference,
                seconds=seconds,
                environment=environment(),
                seed=seed,
                latency=compare_latency(original, left.model, inputs),
                accuracy=accuracy,
                kept=left.units,
                refused=left.refused,
                model=type(original).__name__,
                sparsity=Sparsity(
                    total,
                    left.masks.kept,
                    zipped_bytes(original),
                    zipped_bytes(left.model),
                    tuple((row.share, row.metric) for row in found.rows if row.metric is not None),
                ),
                structure=_blocks(left.model, left.plan, method, args, kwargs),
            )
    recipe = {
        "method": describe(method),
        "training": describe(training),
        "budget": None if budget is None else {budget.unit: budget.value},
        "seed": seed,
    }
    report = replace(begun.report(report), recipe=begun.recipe(recipe))
    return SparseResult(left.model, left.plan, report, left.masks, found)


@dataclass(frozen=True)
class _Left:
    """What is left of a sparse network without its dead units."""

    model: nn.Module
    plan: Plan
    masks: Masks
    difference: float = 0.0
    units: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


def _check(begun: Start, method: TrainingMethod, training: Training) -> None:
    if any(bool((pattern.states == UNIFY).any()) for pattern in begun.patterns.values()):
        raise StructureError(
            f"{method.label} would part the unified blocks of what it goes on from: train first, and unify by "
            "micro_structure or by ADMM afterwards."
        )
    check_epochs(method, training)


def check_epochs(method: TrainingMethod, training: Training) -> None:
    """Check that a training is long enough for its method, and does not undo it in the end.

    Raises:
        StructureError: ADMM is given too few epochs, or unified blocks and fine-tuning without it.
    """
    if not isinstance(method, ADMM):
        return
    if training.epochs < method.least_epochs:
        raise StructureError(
            f"ADMM needs up to {method.least_epochs} epochs until it projects for the last time, and training has "
            f"{training.epochs}: give Training(epochs={method.least_epochs} or more), or lower ADMM(epochs=...)."
        )
    if training.finetune and method.structure.unify:
        raise StructureError(
            "Fine-tuning without the method would part unified blocks: leave finetune out, and give Training more "
            "epochs, of which those after the last projection train under the pattern."
        )


def _kept(begun: Start) -> Masks | None:
    """Return what the earlier result left, where it has zeros that are to stay."""
    if begun.earlier is None:
        return None
    masks = Masks({name: pattern.mask() for name, pattern in begun.patterns.items()})
    return masks & begun.earlier.masks if isinstance(begun.earlier, SparseResult) else masks


def _left(
    begun: Start,
    found: Trained,
    method: TrainingMethod,
    example_inputs: Tensor | tuple[Any, ...] | Mapping[str, Any],
) -> _Left:
    """Remove the units that nothing feeds or reads any more.

    A network that cannot be traced keeps its shapes, and so does one with micro-structures, whose blocks lie in them,
    or with an earlier plan, whose edits are for its shapes.
    """
    patterns = dict(begun.patterns)
    if isinstance(method, ADMM):
        patterns |= method.structure.observed(found.model)
    if patterns or begun.earlier is not None:
        return _Left(found.model, begun.plan(found.model, patterns), found.masks)
    try:
        removal = without_dead_units(found.model, example_inputs)
    except (TraceError, SurgeryError) as error:
        whole = Plan(kept={}, edits=(), made_for=fingerprint(found.model))
        return _Left(found.model, whole, found.masks, refused={"all dead units": str(error)})
    # A constant may have moved into a bias that was masked, so masks are read off the weights.
    masks = Masks({name: p.detach() != 0 for name, p in parameters(removal.model).items()})
    difference = removal.verification.max_difference
    return _Left(removal.model, removal.plan, masks, difference, removal.units, removal.refused)


def _blocks(
    model: nn.Module, plan: Plan, method: TrainingMethod, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Structured | None:
    """Return what the report says of blocks; nothing where there are none, or where the model cannot be traced."""
    if not plan.patterns:
        return None
    try:
        graph = trace(model, *args, **kwargs)
    except TraceError:
        return None
    layers = method.structure.layers(model) if isinstance(method, ADMM) else None
    return summary(graph, state_tensors(graph.program), plan.patterns, layers)


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
