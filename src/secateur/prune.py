"""The verb: from a model, a method and data to a smaller model, measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from secateur.case import Case, Evaluate
from secateur.ground.describe import describe
from secateur.ground.errors import BudgetError
from secateur.ground.importing import can_be_imported, name_of
from secateur.ground.inputs import BatchDims, Example, Inputs
from secateur.ground.plain import to_plain
from secateur.ground.progress import silenced
from secateur.measure import Timer, compare_latency, environment, size
from secateur.measure.metric import Metric
from secateur.methods.int8 import Int8
from secateur.methods.misfits import check_kinds, misfits
from secateur.methods.names import names
from secateur.methods.protocol import Draft, Method
from secateur.recovery import Distill
from secateur.report import Report, Scores
from secateur.result import Result
from secateur.runtime.timer import BlockTimer
from secateur.selection import Budget, Limits
from secateur.surgery import limits as limits_of
from secateur.training import Teacher, Training, Validation

__all__ = ["prune", "quantise"]


def prune(
    model: nn.Module | Result,
    example_inputs: Example,
    *,
    method: Method,
    budget: Budget | None = None,
    calibration: Iterable[Any] | None = None,
    training: Training | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    distill: Distill | None = None,
    dense: nn.Module | None = None,
    evaluate: Evaluate | None = None,
    metric: Metric = Metric(),  # noqa: B008 - frozen
    timer: Timer | BlockTimer | None = None,
    progress: bool = True,
    seed: int = 0,
    batch_dims: BatchDims | None = None,
) -> Result:
    """Return a smaller or sparser copy of a trained model, repaired and measured; the model stays as it is.

    Methods that remove units (`SNP`) need `calibration` and a `budget`; those that mask weights while a network trains
    (`NNRelief`) need `training`; those that choose blocks of weights (`MicroStructured`) repair on `calibration`.

    Args:
        model: a trained model, or the result of another method, whose plan then goes on: what is zero or unified in it
            stays so, and its shapes stay.
        example_inputs: a tensor, a tuple of positional or a mapping of keyword inputs.
        method: what decides: see `secateur.methods`; yours may be one of them.
        budget: how much may stay, with a unit. A latency is measured on the example inputs, in their batch size and
            with torch's threads, by `timer`.
        calibration: batches of inputs; a few hundred samples suffice. Labels behind the inputs are ignored, except by
            criteria that name a loss (`Taylor`).
        training: how to train, for methods that do.
        limits: layers that lose no units, and the widths that the others may have.
        distill: gradient steps on the calibration inputs, without labels, after units were removed and repaired.
        dense: the model that a result was made of, where the result does not know it (it was loaded).
        evaluate: scores a model; called on the dense model first, and after each step.
        metric: what the scores mean: a share of which more is better (an accuracy), unless you say otherwise.
        timer: measures latencies; this machine unless another one is given.
        progress: show what goes on.
        seed: draws what is drawn at random.
        batch_dims: which dimension of each input counts samples, where the trace does not find it: see `trace`.

    Under `torch.distributed` every process gives its own share of the calibration data (of training data, the same
    loader), and ends with the same model; let one of them save it.

    Raises:
        UsageError: arguments do not go together, or one is missing.
        TraceError: the model cannot be exported.
        CalibrationError: calibration data are empty, of wrong shape or make values that are not finite.
        MetricError: `evaluate` returns no finite number, or none that fits the metric.
        BudgetError: the budget cannot be met; the message says how far the model can go.
        SurgeryError: the smaller model does not compute what was promised.
        SecateurError: see the method's `draft` for others.

    >>> import torch, secateur as sc
    >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    >>> x = torch.randn(256, 8)
    >>> result = sc.prune(net, x[:2], method=sc.SNP(), budget=sc.Budget(macs=0.5), calibration=[x])
    >>> result.model[0].out_features
    16
    """
    check_kinds(method, budget)
    case = Case.of(
        model,
        Inputs.of(example_inputs, batch_dims),
        dense=dense,
        calibration=calibration,
        training=training,
        limits=limits,
        distill=distill,
        evaluate=evaluate,
        metric=metric,
        timer=timer,
        seed=seed,
    )
    for misfit in misfits(
        method,
        budget=budget,
        calibration=case.calibration,
        training=training,
        limits=limits,
        distill=distill,
        earlier=case.earlier is not None,
    ):
        raise misfit.error
    with silenced(not progress):
        case.score("dense", case.dense)
        draft = method.draft(case, budget)
        case.score(draft.step, draft.model)
        report = _report(case, draft, method, budget)
        _hold(report, draft, budget)
    return Result(draft.model, draft.plan, report, case.dense, draft.masks, draft.trained)


def quantise(
    model: nn.Module | Result,
    example_inputs: Example,
    *,
    calibration: Iterable[Any],
    method: Method = Int8(),  # noqa: B008 - frozen
    **options: Any,
) -> Result:
    """Return a model with quantised layers: an ordinary module that computes what integer kernels do.

    It is `prune` with `Int8` (or `Int4`) for its method, which see for the other options; it comes last, after units
    were removed and blocks became zero. What is zero stays so. The report says for each layer how it is quantised and
    what that costs, and which layers stay float, and why.

    >>> import torch, secateur as sc
    >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    >>> x = torch.randn(256, 8)
    >>> result = sc.quantise(net, x[:2], calibration=[x])
    >>> result.model[0].integers().dtype, result.report.quantisation.error < 1e-3
    (torch.int8, True)
    """
    return prune(model, example_inputs, method=method, calibration=calibration, **options)


def _report(case: Case, draft: Draft, method: Method, budget: Budget | None) -> Report:
    """Measure a draft against the dense model, and say how to run it again."""
    journal = case.journal
    with case.phase("measurement"):
        report = Report(
            method=method.label,
            budget=draft.budget or str(budget),
            before=size(case.dense, case.inputs),
            after=size(draft.model, case.inputs),
            seconds=journal.seconds,
            environment=environment(),
            seed=case.seed,
            latency=compare_latency(*(draft.timed or (case.dense, draft.model)), case.inputs),
            scores=Scores(**journal.scores) if journal.scores else None,
            metric=case.metric,
            model=type(case.dense).__name__,
            recipe=_recipe(case, method, budget),
            limits=limits_of(draft.plan),
            **vars(draft.evidence),
        )
    return report if case.earlier is None else _together(case.earlier.report, report)


def _hold(report: Report, draft: Draft, budget: Budget | None) -> None:
    """Hold the finished model against the budget (law 3), counted anew: no rule of a method's own is trusted here.

    Raises:
        BudgetError: it was missed.
    """
    if budget is None or draft.budget is not None or budget.unit not in ("macs", "params", "bytes"):
        return
    dense, left = getattr(report.before, budget.unit), getattr(report.after, budget.unit)
    if left > budget.absolute(dense) * (1 + 1e-9):
        raise BudgetError(
            f"The budget ({budget}) was missed: the smaller model has {left:,} of {dense:,} {budget.unit}. This is a "
            "fault of the method or of the count: please report it, with the model."
        )


def _together(before: Report, report: Report) -> Report:
    """Return a method's report with what earlier methods did."""
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


def _recipe(case: Case, method: Method, budget: Budget | None) -> Mapping[str, Any]:
    """Return how to run it again, as plain data."""
    given: dict[str, Any] = {
        "method": _plain(method, Method),
        "budget": None if budget is None else {budget.unit: getattr(budget, budget.unit)},
        "training": None if case.training is None else _plain(case.training),
        "limits": _plain(case.limits) if method.needs.limits else None,
        "distill": None if case.distill is None else _plain(case.distill),
        "calibration": False if case.calibration is None else None,
        "seed": case.seed,
    }
    step = {key: value for key, value in given.items() if value is not None}
    if case.earlier is not None:
        before = dict(case.earlier.recipe)
        if before.get("seed", 0) == case.seed:
            del step["seed"]
        return before | {"then": [*before.get("then", ()), step]}
    if can_be_imported(case.evaluate):
        step["evaluate"] = name_of(case.evaluate)
    if case.metric != Metric():
        step["metric"] = _plain(case.metric)
    if case.inputs.batch_dims is not None:
        step["batch_dims"] = to_plain(case.inputs.batch_dims, kind=BatchDims)
    args = case.inputs.args
    if (
        len(args) == 1
        and not case.inputs.kwargs
        and isinstance(args[0], Tensor)
        and args[0].is_floating_point()
    ):
        step["example"] = list(args[0].shape)
    return step


def _plain(value: Any, kind: Any = None) -> Any:
    """Return options as plain data; data and networks, which no file can say, are left out."""
    given = [(Training, "loader"), (Training, "checkpoints"), (Teacher, "model")]
    validation = value.validation if isinstance(value, Training) else None
    if validation is None or not can_be_imported(validation.measure):
        given.append((Validation, "measure"))
    return to_plain(value, kind=kind, names=names(), given=given, otherwise=describe)
