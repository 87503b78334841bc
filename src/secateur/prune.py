"""The verb: from a model, a method and data to a smaller model, measured."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.case import Case, Evaluate
from secateur.export.target import Target, compare_at
from secateur.ground.describe import describe
from secateur.ground.devices import moments_on_host
from secateur.ground.errors import BudgetError, CalibrationError, TrainingError
from secateur.ground.importing import can_be_imported, name_of
from secateur.ground.inputs import BatchDims, Example, Inputs
from secateur.ground.plain import to_plain
from secateur.ground.processes import in_step
from secateur.ground.progress import silenced
from secateur.measure import Stopwatch, Timer, compare_latency, environment, size
from secateur.measure.metric import Metric
from secateur.methods.misfits import check_options, checked_method, misfits
from secateur.methods.names import names
from secateur.methods.protocol import Draft, Method
from secateur.recovery import Distill
from secateur.report import Report, Scores
from secateur.report.findings import Deployed
from secateur.report.rows import slower
from secateur.result import Result
from secateur.runtime.timer import BlockTimer
from secateur.selection import Budget, Limits
from secateur.surgery import limits as limits_of
from secateur.surgery.lineage import Lineage, lineage, remember
from secateur.training import Teacher, Training, Validation

__all__ = ["prune"]

TRIES, SLACK = 3, 0.1  # of a time that is held against its budget


def prune(
    model: nn.Module | Result,
    example_inputs: Example,
    *,
    method: Method | None = None,
    budget: Budget | None = None,
    calibration: Iterable[Any] | None = None,
    training: Training | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    distill: Distill | None = None,
    dense: nn.Module | None = None,
    evaluate: Evaluate | None = None,
    metric: Metric = Metric(),  # noqa: B008 - frozen
    timer: Timer | BlockTimer | None = None,
    target: Target | None = None,
    progress: bool = True,
    seed: int = 0,
    batch_dims: BatchDims | None = None,
) -> Result:
    """Return a smaller or sparser copy of a trained model, repaired and measured; the model stays as it is.

    Methods that remove units (`SNP`) need `calibration` and a `budget`; those that mask weights while a network trains
    (`NNRelief`) need `training`; those that choose blocks of weights (`MicroStructured`) repair on `calibration`.

    Args:
        model: a trained model, or the result of another run, whose plan then goes on: what is zero or unified in it
            stays so. A model that `prune` or `load` made, trained since or not, knows how it came about: what is saved
            of it is loaded onto the class that was pruned first.
        example_inputs: a tensor, a tuple of positional or a mapping of keyword inputs.
        method: what decides: see `secateur.methods`; yours may be one of them.
        budget: how much may stay, with a unit; a share is of the dense model, of a result the one that was pruned
            first. A latency is measured on the example inputs, in their batch size and
            with torch's threads, by `timer`.
        calibration: batches of inputs; a few hundred samples suffice. Labels behind the inputs are ignored, except by
            criteria that name a loss (`Taylor`).
        training: how to train, for methods that do.
        limits: layers that lose no units, and the widths that the others may have.
        distill: gradient steps on the calibration inputs, without labels, after units were removed and repaired.
        dense: the model that a result or a loaded model was made of, to compare with: a loaded one does not hold it.
        evaluate: scores a model; called on the dense model first, and after each step.
        metric: what the scores mean: a share of which more is better (an accuracy), unless you say otherwise.
        timer: measures latencies; this machine unless another one is given.
        target: the engine that the network will run in (`secateur.target`): widths become multiples that it likes,
            unless `limits` say otherwise, and the report has the times there, with a warning where they did not fall.
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
        ExportError: the target's engine is not installed, or does not take the model.
        SecateurError: see the method's `draft` for others.

    >>> import torch, secateur as sc
    >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    >>> x = torch.randn(256, 8)
    >>> result = sc.prune(net, x[:2], method=sc.SNP(), budget=sc.Budget(macs=0.5), calibration=[x])
    >>> result.model[0].out_features
    16
    """
    method = checked_method(method, budget)
    check_options(
        training=(training, Training, "sc.Training(loader, loss, epochs=10)"),
        limits=(limits, Limits, "sc.Limits(exclude=('fc',))"),
        distill=(distill, Distill, "sc.Distill(steps=200)"),
        metric=(metric, Metric, "sc.measure.Metric('loss', higher_is_better=False)"),
        target=(target, Target, "sc.target.OnnxRuntime()"),
    )
    case = Case.of(
        model,
        Inputs.of(example_inputs, batch_dims),
        dense=dense,
        calibration=calibration,
        training=training,
        limits=_rounded(limits, target) if method.needs.limits else limits,
        distill=distill,
        evaluate=evaluate,
        metric=metric,
        timer=timer,
        target=target,
        seed=seed,
    )
    for misfit in misfits(
        method,
        budget=budget,
        calibration=case.calibration,
        training=training,
        limits=limits,
        distill=distill,
        earlier=case.earlier is not None and bool(case.patterns or case.earlier.masks is not None),
    ):
        raise misfit.error
    with silenced(not progress):
        _ = case.deployed  # before any work: an engine that is not installed is told of at once
        case.score("dense", case.dense)
        draft = _draft(method, case, budget)
        case.score(draft.step, draft.model)
        report = _report(case, draft, method, budget)
        _hold(report, draft, budget)
        with in_step():
            _hold_time(case, draft, budget)
    for fault in slower(report):
        warnings.warn(fault, stacklevel=2)
    result = Result(draft.model, draft.plan, report, case.dense, draft.masks, draft.trained)
    original = report.original or report.before
    remember(result.model, Lineage(result.whole, report.method, report.budget, original, report.recipe))
    return result


def _draft(method: Method, case: Case, budget: Budget | None) -> Draft:
    """Return the method's draft; where a device does not hold the moments as well, the processor keeps them.

    Raises:
        CalibrationError, TrainingError: the device does not hold the network's own values.
    """
    remedy = "give smaller batches, or free what else it holds"
    with suppress(torch.OutOfMemoryError):  # left at once, so that nothing of the first try is held on to
        return method.draft(case, budget)
    if method.needs.training:
        raise TrainingError(f"The device is out of memory in training: {remedy}.")
    warnings.warn("The device is out of memory: moments are kept and solved by the processor.", stacklevel=3)
    try:
        with moments_on_host():
            return method.draft(case, budget)
    except torch.OutOfMemoryError as error:
        raise CalibrationError(f"The device is out of memory, even without moments: {remedy}.") from error


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
            deployed=_deployed(case, draft),
            scores=Scores(**journal.scores) if journal.scores else None,
            metric=case.metric,
            model=type(case.dense).__name__,
            recipe=_recipe(case, method, budget),
            limits=limits_of(draft.plan),
            **vars(draft.evidence),
        )
    if case.earlier is not None:
        return _together(case.earlier.report, report)
    past = lineage(case.model)
    if past is None:
        return report
    return replace(
        report,
        method=f"{past.method}; {report.method}",
        budget=f"{past.budget}; {report.budget}",
        original=past.original if case.start is None else None,
    )


def _rounded(limits: Limits, target: Target | None) -> Limits:
    """Return limits with widths as a target likes them, unless the user has given others."""
    return limits if target is None or limits.round_to > 1 else replace(limits, round_to=target.round_to)


def _deployed(case: Case, draft: Draft) -> Deployed | None:
    """Time a draft beside the dense model in the engine of the target."""
    if case.target is None or case.deployed is None:
        return None
    pruned = case.target.engine(draft.model, case.inputs)
    times = compare_at(case.target, case.deployed, pruned, case.inputs.batch)
    return Deployed(case.target.label, times, case.limits.round_to, case.target.round_to)


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


def _hold_time(case: Case, draft: Draft, budget: Budget | None) -> None:
    """Hold the finished model against a budget of time, where values may have changed since its shapes were timed.

    What disturbs a clock only makes it slower, so that the best of some tries counts.

    Raises:
        BudgetError: it was missed.
    """
    if budget is None or draft.budget is not None or not budget.timed:
        return
    timer = case.timer if isinstance(case.timer, Timer) else Stopwatch()
    best, most = math.inf, 0.0
    for _ in range(TRIES):
        dense, left = timer.models((case.dense, draft.model), case.inputs)
        most = budget.absolute(dense) * (1 + SLACK)
        best = min(best, left)
        if left <= most:
            return
    raise BudgetError(
        f"The budget ({budget}) was missed: repaired, the smaller model takes {best:.3g} ms, and {most:.3g} ms are "
        "allowed. It was within it before its weights changed: look for denormal values, or a busy machine."
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
        original=before.original,
    )


def _recipe(case: Case, method: Method, budget: Budget | None) -> Mapping[str, Any]:
    """Return how to run it again, as plain data."""
    given: dict[str, Any] = {
        "method": _plain(method, Method),
        "budget": None if budget is None else {budget.unit: getattr(budget, budget.unit)},
        "training": None if case.training is None else _plain(case.training),
        "limits": _plain(case.limits) if method.needs.limits else None,
        "target": None if case.target is None else _plain(case.target, Target),
        "distill": None if case.distill is None else _plain(case.distill),
        "calibration": False if case.calibration is None else None,
        "seed": case.seed,
    }
    step = {key: value for key, value in given.items() if value is not None}
    past = lineage(case.model)
    if case.earlier is not None or past is not None:
        before = dict(case.earlier.recipe if case.earlier is not None else past.recipe if past else {})
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
    given = [(Training, "loader"), (Training, "checkpoints"), (Teacher, "model"), (Distill, "checkpoints")]
    validation = value.validation if isinstance(value, Training) else None
    if validation is None or not can_be_imported(validation.measure):
        given.append((Validation, "measure"))
    return to_plain(value, kind=kind, names=names(), given=given, otherwise=describe)
