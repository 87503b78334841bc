"""Run a recipe: names become a model and data, and `secateur.prune` does the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur import (
    SNP,
    BatchNormScale,
    Budget,
    Distill,
    Magnitude,
    OnePass,
    Packed,
    Quantise,
    Random,
    Result,
    Sequential,
    Taylor,
    micro_structure,
    pack,
    prune,
)
from secateur.ground.errors import CalibrationError, RecipeError
from secateur.measure import using_threads
from secateur.methods import ZCA, Conditional, Method, Order, Pivot, Variance, Weights
from secateur.recovery import Recovery
from secateur.sparse import check_epochs

from .registry import Samples, import_callable, resolve_data, resolve_evaluate, resolve_model, resolve_type
from .schema import (
    BatchNormScaleSpec,
    MagnitudeSpec,
    MethodSpec,
    RandomSpec,
    Recipe,
    SNPPaperSpec,
    SNPSpec,
    TaylorSpec,
    TypeName,
)
from .structure import compensation_of, criterion_of, structure_of
from .structure_schema import MicroStructureSpec
from .training import training_method_of, training_of
from .training_schema import TrainingMethodSpec

__all__ = ["method_of", "run", "write"]


def run(recipe: Recipe, *, progress: bool = True, resume: bool = False) -> Result:
    """Prune what the recipe names; nothing is saved, but a run that trains keeps checkpoints.

    With `resume` such a run goes on where it was.

    Raises:
        SecateurError: a name is unknown, data or weights are missing, or pruning fails.
    """
    with using_threads(recipe.threads):
        model = resolve_model(recipe.model)
        samples = resolve_data(recipe.data)
        calibration = samples.calibration
        if isinstance(calibration, Iterator):  # it is gone through more than once
            calibration = list(calibration)
        evaluate = resolve_evaluate(recipe.evaluate) if recipe.evaluate else samples.evaluate
        if resume and not any(step.training for step in recipe.steps):
            raise RecipeError(f"{recipe.method.name} does not train: there is nothing to resume.")
        # All of them first: a mistake in the last step is told before hours of the first.
        runs = [_run_of(recipe, number, model, samples, resume) for number in range(len(recipe.steps))]
        example = _example(recipe, calibration)
        result: Result | None = None
        for one in runs:
            result = one(
                model if result is None else result,
                example,
                calibration=calibration,
                evaluate=evaluate,
                progress=progress,
                seed=recipe.seed,
                **({} if result is None else {"dense": model}),
            )
    assert result is not None
    # As it was given, so that the artefact's own recipe.yaml can be run again.
    given = recipe.model_dump(mode="json", exclude_none=True)
    return replace(result, report=replace(result.report, model=recipe.model.name, recipe=given))


def write(recipe: Recipe, result: Result) -> Packed | None:
    """Save a result where the recipe says, and pack it; return what packing gained.

    Raises:
        ArtefactError: it cannot be saved or packed.
    """
    if recipe.output is None:
        return None
    result.save(recipe.output)
    if (wish := recipe.pack) is None:
        return None
    quantise = None if wish.bits is None else Quantise(wish.bits, wish.exclude)
    return pack(recipe.output, wish.file, quantise=quantise, smallest=wish.smallest)


def _run_of(
    recipe: Recipe, number: int, model: nn.Module, samples: Samples, resume: bool
) -> Callable[..., Result]:
    """Return what runs one of a recipe's steps, given a model or a result."""
    step = recipe.steps[number]
    budget = None if step.budget is None else Budget(**step.budget.model_dump())
    spec = step.method
    if isinstance(spec, MicroStructureSpec):
        return partial(
            micro_structure,
            method=structure_of(spec),
            budget=budget,
            criterion=criterion_of(spec),
            recovery=compensation_of(spec),
        )
    if isinstance(spec, TrainingMethodSpec):
        method, training = training_method_of(spec), training_of(recipe, model, samples, resume, number)
        check_epochs(method, training)
        return partial(prune, method=method, training=training, budget=budget)
    return partial(
        prune,
        method=method_of(spec),
        budget=budget,
        exclude=tuple(resolve_type(e) if isinstance(e, TypeName) else e for e in recipe.exclude),
        keep=recipe.keep,
        round_to=recipe.round_to,
        floor=recipe.floor,
        uniform=recipe.uniform,
        streams=recipe.streams,
        distill=Distill(**recipe.distill.model_dump()) if recipe.distill else None,
    )


def method_of(spec: MethodSpec) -> Method:
    """Return the method that a recipe names.

    Raises:
        UnknownNameError: the loss that it names cannot be imported.
    """
    match spec:
        case SNPSpec(order=order, recovery=recovery, sweeps=sweeps):
            return SNP(order=_ORDERS[order](), recovery=_recovery(recovery, sweeps))
        case SNPPaperSpec():
            return SNP.paper()
        case MagnitudeSpec(p=p, recover=recover):
            return Magnitude(p=p, recovery=OnePass() if recover else None)
        case RandomSpec(seed=seed, recover=recover):
            return Random(seed=seed, recovery=OnePass() if recover else None)
        case BatchNormScaleSpec(recover=recover):
            return BatchNormScale(recovery=OnePass() if recover else None)
        case TaylorSpec(loss=name, recover=recover):
            loss = Taylor.loss if name is None else import_callable(name)
            return Taylor(loss, recovery=OnePass() if recover else None)


_ORDERS: dict[str, Callable[[], Order]] = {
    "output": lambda: SNP().order,
    "zca": ZCA,
    "conditional": Conditional,
    "pivot": Pivot,
    "variance": Variance,
    "weights": Weights,
}


def _recovery(name: str, sweeps: int) -> Recovery | None:
    match name:
        case "sequential":
            return Sequential(sweeps=sweeps)
        case "one-pass":
            return OnePass()
        case _:
            return None


def _example(recipe: Recipe, calibration: Iterable[Any]) -> Tensor:
    if recipe.example is not None:
        return torch.rand(recipe.example, generator=torch.Generator().manual_seed(recipe.seed))
    first = next(iter(calibration), None)
    if first is None:
        raise CalibrationError(f"The calibration data {recipe.data.name} are empty: give at least one batch.")
    if isinstance(first, tuple | list) and first:
        first = first[0]  # labels behind the input are not used
    if not isinstance(first, Tensor):
        raise RecipeError(
            f"The batches of {recipe.data.name} are of type {type(first).__name__}; a recipe needs tensors. "
            "Models with other inputs are pruned from Python: secateur.prune."
        )
    return first[:1]
