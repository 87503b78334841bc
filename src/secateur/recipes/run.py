"""Run a recipe: names become a model and data, and `secateur.prune` does the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.artefact import Packed, pack
from secateur.ground.errors import CalibrationError, DataError, RecipeError
from secateur.measure import using_threads
from secateur.prune import prune
from secateur.result import Result
from secateur.training import Checkpoints, Training, Validation

from .models import resolve_model
from .recipe import GIVEN, Recipe, write_recipe
from .samples import Samples, resolve_data, training_data

__all__ = ["run", "training_of", "write"]


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
        if resume and not any(step.training for step in recipe.steps):
            raise RecipeError(f"{recipe.method.label} does not train: there is nothing to resume.")
        # All of them first: a mistake in the last step is told before hours of the first.
        trainings = [
            training_of(recipe, model, samples, resume, number) for number in range(len(recipe.steps))
        ]
        example = _example(recipe, calibration)
        result: Result | None = None
        for step, training in zip(recipe.steps, trainings, strict=True):
            result = prune(
                model if result is None else result,
                example,
                method=step.method,
                budget=step.budget,
                calibration=calibration if step.calibration else None,
                training=training,
                limits=step.limits,
                distill=step.distill,
                evaluate=recipe.evaluate or samples.evaluate,
                metric=recipe.metric,
                target=recipe.target,
                batch_dims=recipe.batch_dims,
                progress=progress,
                seed=recipe.seed if step.seed is None else step.seed,
            )
    assert result is not None
    # As it was given, so that the artefact's own recipe.yaml can be run again; with the shape of an input, so that it
    # can be measured and exported where the data are not.
    said = replace(recipe, example=tuple(example.shape)) if example.is_floating_point() else recipe
    return replace(result, report=replace(result.report, model=recipe.model.name, recipe=write_recipe(said)))


def write(recipe: Recipe, result: Result) -> Packed | None:
    """Save a result where the recipe says, and pack it; return what packing gained.

    Raises:
        ArtefactError: it cannot be saved or packed.
    """
    if recipe.output is None:
        return None
    result.save(recipe.output)
    if recipe.pack is None:
        return None
    return pack(recipe.output, recipe.pack.file, quantise=recipe.pack.quantise)


def training_of(
    recipe: Recipe, model: nn.Module, samples: Samples, resume: bool, step: int = 0
) -> Training | None:
    """Return the training of one of a recipe's steps with its data; the dense model is the teacher.

    Raises:
        RecipeError: there is nothing to resume.
        DataError: the data have no labelled training part.
    """
    training = recipe.steps[step].training
    if training is None:
        return None
    kept = training.checkpoints
    if kept is None and recipe.output is not None:
        folder = recipe.output.with_name(f"{recipe.output.name}.run{step + 1 if step else ''}")
        kept = Checkpoints(folder)
    if kept is None and resume:
        raise RecipeError(
            "Nothing to resume: say training.checkpoints, or output, whose run is kept beside it."
        )
    loader, measure = training_data(recipe.data, samples)
    validation = training.validation
    if validation is None:
        validation = None if measure is None else Validation(measure)
    elif validation.measure is GIVEN[Validation, "measure"]:  # the recipe names none of its own
        if measure is None:
            raise DataError(f"{recipe.data.name} has no validation data: a bound and patience need some.")
        validation = replace(validation, measure=measure)
    return replace(
        training,
        loader=loader,
        validation=validation,
        teacher=None if training.teacher is None else replace(training.teacher, model=model),
        checkpoints=None if kept is None else replace(kept, resume=resume or kept.resume),
    )


def _example(recipe: Recipe, calibration: Iterable[Any]) -> Tensor:
    first = next(iter(calibration), None)
    if isinstance(first, tuple | list) and first:
        first = first[0]  # labels behind the input are not used
    if recipe.example is not None:
        example = torch.rand(recipe.example, generator=torch.Generator().manual_seed(recipe.seed))
        return example.to(first.dtype) if isinstance(first, Tensor) and first.is_floating_point() else example
    if first is None:
        raise CalibrationError(f"The calibration data {recipe.data.name} are empty: give at least one batch.")
    if not isinstance(first, Tensor):
        raise RecipeError(
            f"The batches of {recipe.data.name} are of type {type(first).__name__}; a recipe needs tensors. "
            "Models with other inputs are pruned from Python: secateur.prune."
        )
    return first[:1]
