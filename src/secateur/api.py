"""The whole line, written once: trace, collect, rank, select, verify, recover, apply, measure."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_structure, tree_unflatten

from secateur.ground.tensors import tensor_names, tensors_of

from .artefact import save
from .graph import Graph, Kept, trace
from .ground.errors import BudgetError, SurgeryError
from .ground.inputs import Inputs
from .ground.processes import digest, in_step, require_same
from .ground.progress import silenced
from .measure import Stopwatch, Timer, compare_latency, environment, size
from .methods import Method
from .methods.kinds.latency import cut_to_latency
from .recovery import Distill
from .recovery.jobs import masked
from .report import Accuracy, Report, frozen_parts, loss_curve, page
from .selection import Budget, Constraints, remaining, select
from .selection.overrides import check_fixed, fixed_units
from .statistics import Calibration, collect, state_tensors
from .surgery import Plan, RemoveBranch, apply, make_plan
from .surgery.branches import constants
from .surgery.candidates import candidates
from .surgery.cutting import cut
from .training.describe import describe

__all__ = ["Result", "plan", "prune"]

Evaluate = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Result:
    """A smaller model, the plan that made it and what was measured."""

    model: nn.Module
    plan: Plan
    report: Report

    @property
    def recipe(self) -> Mapping[str, Any]:
        """How to run it again, as plain data."""
        return self.report.recipe

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write an artefact: safetensors, plan, recipe and report (data and page), without pickle; return its folder.

        Raises:
            ArtefactError: see `secateur.artefact.save`.
        """
        report = self.report
        return save(
            folder, self.model, self.plan, report.recipe, report.to_json(), page({report.model: report})
        )

    def updated(self, model: nn.Module, finetuned: float | None = None) -> Result:
        """Return the result with a further trained copy of its model, ready to be saved as an artefact.

        `finetuned` is the accuracy after training, by the same measure as `evaluate` of `prune`.

        Raises:
            SurgeryError: the model does not have the tensors of this result's model, or broke its blocks.
            ValueError: there is an accuracy after training, but none of the dense model to compare with.

        >>> import secateur as sc
        >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
        >>> x, y = torch.randn(64, 8), torch.randint(0, 4, (64,))
        >>> result = sc.prune(net, x[:2], method=sc.SNP(), budget=sc.Budget(macs=0.5), calibration=[x])
        >>> result = result.updated(sc.finetune(result.model, [(x, y)], teacher=net))
        """
        old, new = tensors_of(self.model), tensors_of(model)
        for name in sorted(old.keys() | new.keys()):
            sizes = [tuple(t[name].shape) if name in t else "missing" for t in (old, new)]
            if sizes[0] != sizes[1]:
                raise SurgeryError(
                    f"this is another model than the result's: {name} is {sizes[1]}, not {sizes[0]}."
                )
        accuracy = self.report.accuracy
        if finetuned is not None:
            if accuracy is None:
                raise ValueError("no accuracy of the dense model to compare with: prune with evaluate=...")
            accuracy = replace(accuracy, finetuned=finetuned)
        for name, pattern in self.plan.patterns.items():
            if not pattern.obeyed(new[name].detach()):
                raise SurgeryError(
                    f"{name} does not obey its pattern of blocks any more: hold it while training, by ADMM(epochs=0)."
                )
        tensors = {names[0]: new[names[0]].detach().clone() for names in tensor_names(model)}
        return replace(
            self,
            model=model,
            plan=replace(self.plan, tensors=tensors),
            report=replace(self.report, accuracy=accuracy),
        )


def prune(
    model: nn.Module,
    example_inputs: Tensor | tuple[Any, ...] | Mapping[str, Any],
    *,
    method: Method,
    budget: Budget,
    calibration: Iterable[Any],
    exclude: Iterable[str | type[nn.Module]] = (),
    keep: Mapping[str, float] | None = None,
    round_to: int = 1,
    floor: int = 1,
    uniform: bool = False,
    streams: bool = False,
    distill: Distill | None = None,
    evaluate: Evaluate | None = None,
    timer: Timer | None = None,
    progress: bool = True,
    seed: int = 0,
) -> Result:
    """Return a physically smaller copy of a trained model, repaired and measured; the model stays as it is.

    `example_inputs` is a tensor, a tuple of positional or a mapping of keyword inputs. `calibration` yields batches
    of inputs; a few hundred samples suffice. Labels behind the inputs are ignored, except by criteria that name a loss
    (`Taylor`). `exclude` names layers that keep their outputs, by globs over module paths or by types. `keep` fixes
    layers' widths by such globs, as shares (at most 1) or numbers of units: ``{"layer1.*": 0.75, "fc1": 64}``; the
    others make up for the budget. Every group keeps a multiple of `round_to` units and at least `floor`; with
    `uniform` all groups of one kind and size keep the same number, for servers that take no others. With `streams`
    residual streams lose units too, in all layers that add to them or read them at once. With `distill`, gradient
    steps on the same samples follow recovery. `evaluate` scores a model, higher is better, and is called on the
    dense, the pruned, the recovered and the distilled one. A latency budget is measured on the example inputs, in
    their batch size and with torch's threads, by `timer`: on this machine unless another one is given. Under
    `torch.distributed` every process gives its own share of the calibration data and ends with the same model; let
    one of them save it.

    Raises:
        TraceError: the model cannot be exported.
        CalibrationError: calibration data are empty, of wrong shape or make values that are not finite; or another
            of several processes has failed, or has other weights or options.
        BudgetError: the budget cannot be met; the message says how far the model can go. Or `keep` contradicts
            itself or names nothing that may be pruned.
        UnknownNameError: a pattern in `exclude` or `keep` matches nothing.
        SurgeryError: the smaller model does not compute what was promised.

    >>> import secateur as sc
    >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    >>> x = torch.randn(256, 8)
    >>> result = sc.prune(net, x[:2], method=sc.SNP(), budget=sc.Budget(macs=0.5), calibration=[x])
    >>> result.model[0].out_features
    16
    """
    inputs = Inputs.of(example_inputs)
    exclude = tuple(exclude)
    calibration = list(calibration) if isinstance(calibration, Iterator) else calibration
    seconds: dict[str, float] = {}
    with silenced(not progress):
        with timed(seconds, "trace"):
            graph = trace(model, *inputs.args, **inputs.kwargs)
            chosen = candidates(model, graph, exclude, streams=streams)
            fixed = fixed_units(model, graph, chosen, keep or {})
            constraints = Constraints(round_to, floor, uniform=uniform, fixed=fixed)
        with timed(seconds, "statistics"):
            statistics = collect(
                graph, chosen.groups, calibration, patches=method.patches, loss=method.loss, seed=seed
            )
        with timed(seconds, "selection"):
            ranked = [method.rank(graph, group, statistics) for group in chosen.groups]
            statistics.release()
        with timed(seconds, "surgery and timing" if budget.timed else "surgery"):
            with in_step():
                shown = _first(calibration, graph)
            with _told_of(chosen.refused):
                if budget.timed:
                    first = cut_to_latency(
                        model,
                        graph,
                        chosen,
                        ranked,
                        budget,
                        method.allocation,
                        constraints,
                        shown,
                        inputs,
                        timer or Stopwatch(),
                    )
                else:
                    with in_step():
                        first = cut(
                            model,
                            graph,
                            chosen,
                            lambda left: select(
                                graph, remaining(ranked, left.groups), budget, method.allocation, constraints
                            ),
                            shown,
                        )
            with in_step():
                check_fixed(fixed, first.candidates)
        kept, chosen, smaller, final, verification = (
            first.kept, first.candidates, first.model, first.plan, first.verification,
        )  # fmt: skip
        del first
        require_same(
            digest({name: torch.tensor(units) for name, units in kept.items()}),
            "selection",
            "give each the same options, and data that the model can be verified on",
        )
        # Stage by stage, so that no more networks are in memory than have to be.
        accuracy: Accuracy | None = None
        if evaluate is not None:
            with timed(seconds, "evaluation"):
                accuracy = Accuracy(evaluate(model), evaluate(smaller))
        tensors: Mapping[str, Tensor] | None = None
        if method.recovery is not None:
            del smaller
            with timed(seconds, "recovery"):
                statistics.release()
                tensors = method.recovery(graph, kept, statistics, calibration, seed)
                final = plan(model, graph, kept, tensors, final)
                if distill is None:
                    tensors = None
                statistics.release()
                smaller = apply(model, final)
            if evaluate is not None and accuracy is not None:
                with timed(seconds, "evaluation"):
                    accuracy = replace(accuracy, recovered=evaluate(smaller))
        if distill is not None:
            del smaller
            with timed(seconds, "distillation"):
                given = tensors if tensors is not None else masked(graph, statistics.tensors, kept)
                final = plan(model, graph, kept, distill(graph, kept, given, calibration, seed), final)
                smaller = apply(model, final)
            if evaluate is not None and accuracy is not None:
                with timed(seconds, "evaluation"):
                    accuracy = replace(accuracy, distilled=evaluate(smaller))
        with timed(seconds, "measurement"):
            report = Report(
                method=method.label,
                budget=str(budget),
                before=size(model, inputs),
                after=size(smaller, inputs),
                max_masked_difference=verification.max_difference,
                seconds=seconds,
                environment=environment(),
                seed=seed,
                latency=compare_latency(model, smaller, inputs),
                accuracy=accuracy,
                kept={g.id: (len(kept[g.id]), g.size) for g in chosen.groups},
                model=type(model).__name__,
                curves={
                    r.group.id: loss_curve(r.loss, len(kept[r.group.id]))
                    for r in ranked
                    if r.group.id in kept
                },
                refused=chosen.refused,
                frozen=frozen_parts(graph.frozen),
            )
    recipe = {
        "method": describe(method),
        "budget": {budget.unit: budget.value},
        "exclude": [p if isinstance(p, str) else f"{p.__module__}:{p.__qualname__}" for p in exclude],
        "keep": dict(keep or {}),
        "round_to": round_to,
        "floor": floor,
        "uniform": uniform,
        "streams": streams,
        "distill": describe(distill),
        "seed": seed,
        "refused": dict(chosen.refused),
    }
    return Result(smaller, final, replace(report, recipe=recipe))


def plan(
    model: nn.Module, graph: Graph, kept: Kept, tensors: Mapping[str, Tensor], draft: Plan | None = None
) -> Plan:
    """Return the plan of a selection with repaired tensors, which come in the dense network's shapes.

    `draft` is a plan of the same selection whose edits are known to be right; without one they are found here.
    """
    dense = state_tensors(graph.program)
    changed = {
        n for n, value in tensors.items() if value is not dense[n] and not torch.equal(value, dense[n])
    }
    repaired_model = _with(model, tensors, changed)
    if draft is None:
        draft = make_plan(repaired_model, graph, kept)
    else:
        draft = replace(draft, tensors=constants(repaired_model, graph, kept))
    gone = tuple(f"{path}." for e in draft.edits if isinstance(e, RemoveBranch) for path in e.paths)
    left = {name for name in model.state_dict() if not name.startswith(gone)}
    repaired: dict[str, Tensor] = {}
    for name in sorted(changed & left):
        value = tensors[name]
        for dim in range(value.ndim):
            value = value.index_select(dim, torch.from_numpy(graph.surviving(name, dim, kept)))
        repaired[name] = value.contiguous()
    return replace(draft, tensors={**draft.tensors, **repaired})


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


def _with(model: nn.Module, tensors: Mapping[str, Tensor], names: set[str]) -> nn.Module:
    """Return the dense model with some tensors replaced, no memory copied: removed branches take constants from it."""
    memo: dict[int, Any] = {}
    for name, tensor in tensors_of(model).items():
        value = tensors[name].to(tensor) if name in names else tensor.detach()
        memo[id(tensor)] = (
            nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
        )
    return copy.deepcopy(model, memo)


def _first(calibration: Iterable[Any], graph: Graph) -> Inputs:
    """Return the inputs of the first calibration batch, at most sixteen samples where the batch is free.

    A process without a share of the data has the example.
    """
    batches = Calibration(calibration, graph.program)
    args, kwargs = graph.program.exported.example_inputs
    flat = next(iter(batches), None)
    if flat is None:
        return Inputs(args, kwargs)
    if graph.program.dynamic:
        flat = batches.take(flat, torch.arange(batches.samples(flat)) < 16)
    args, kwargs = tree_unflatten(flat, tree_structure((args, dict(kwargs))))
    return Inputs(args, kwargs)


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Add the time that a block takes to its phase."""
    start = time.perf_counter()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start
