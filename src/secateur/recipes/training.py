"""From what a recipe says of training to data, options and methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from secateur import methods
from secateur import training as room
from secateur.data import DATASETS, Shuffled, held_out, load_images, shift_and_mirror, shifted
from secateur.data.images import HELD_OUT
from secateur.ground.errors import DataError, RecipeError
from secateur.measure import batches
from secateur.training import Training, TrainingMethod, Validation

from .registry import Samples, import_callable
from .schema import DataSpec, Recipe
from .structure import admm_of
from .structure_schema import ADMMSpec
from .training_schema import (
    CosineSpec,
    GradualMagnitudeSpec,
    IrrelevanceDecaySpec,
    LobsterSpec,
    MultiStepSpec,
    NNReliefSpec,
    OneCycleSpec,
    OptimizerSpec,
    TrainingMethodSpec,
    TrainingSpec,
    WeightDecaySpec,
)

__all__ = ["training_method_of", "training_of"]

_AUGMENT: dict[str, Callable[[Tensor], Tensor] | None] = {
    "none": None,
    "shift": shifted,
    "shift-and-mirror": shift_and_mirror,
}


def training_method_of(spec: TrainingMethodSpec) -> TrainingMethod:
    """Return the method that a recipe names."""
    match spec:
        case IrrelevanceDecaySpec(gamma=gamma, alpha=alpha, crop=crop, fading=fading):
            return methods.IrrelevanceDecay(gamma, alpha, _fading(fading), crop)
        case WeightDecaySpec(gamma=gamma, p=p, crop=crop, fading=fading):
            return methods.WeightDecay(gamma, p, _fading(fading), crop)
        case GradualMagnitudeSpec():
            options = spec.model_dump(exclude={"name", "layer_wise"})
            scope = room.LayerWise() if spec.layer_wise else room.Global()
            return methods.GradualMagnitude(**options, scope=scope)
        case LobsterSpec(strength=strength, tolerance=tolerance):
            return methods.Lobster(strength, tolerance)
        case NNReliefSpec():
            return methods.NNRelief(**spec.model_dump(exclude={"name"}))
        case ADMMSpec():
            return admm_of(spec)


def training_of(recipe: Recipe, model: nn.Module, samples: Samples, resume: bool, step: int = 0) -> Training:
    """Return the options of the training of one of a recipe's steps, with its data; the dense model is the teacher.

    Raises:
        RecipeError: nothing says where checkpoints are, or the weights to rewind to cannot be read.
        DataError: the data have no labelled training part.
        UnknownNameError: the loss cannot be imported.
    """
    spec = recipe.steps[step].training
    assert spec is not None
    folder = spec.checkpoints
    if folder is None and recipe.output is not None:
        folder = recipe.output.with_name(f"{recipe.output.name}.run{step + 1 if step else ''}")
    if folder is None and resume:
        raise RecipeError(
            "Nothing to resume: say training.checkpoints, or output, whose run is kept beside it."
        )
    loader, measure = _data(recipe.data, spec, samples)
    bound = None if spec.bound is None else room.Bound(spec.bound.above, spec.bound.drop)
    if measure is None and (bound is not None or spec.patience is not None):
        raise DataError(f"{recipe.data.name} has no validation data: a bound and patience need some.")
    return Training(
        loader,
        loss=F.cross_entropy if spec.loss is None else import_callable(spec.loss),
        epochs=spec.epochs,
        iterations=spec.iterations,
        finetune=spec.finetune,
        validation=None if measure is None else Validation(measure, bound, spec.patience),
        crops=None if spec.crops is None else room.Crops(spec.crops.every, spec.crops.fraction),
        rewind=None if spec.rewind is None else _weights(spec.rewind),
        optimizer=_optimizer(spec.optimizer),
        schedule=_schedule(spec),
        teacher=None
        if spec.teacher is None
        else room.Teacher(model, spec.teacher.temperature, spec.teacher.weight),
        accumulate=spec.accumulate,
        bf16=spec.bf16,
        checkpoints=None if folder is None else room.Checkpoints(folder, resume, spec.every),
    )


def _data(data: DataSpec, spec: TrainingSpec, samples: Samples) -> tuple[Iterable[Any], Any]:
    """Return batches to train on, and what to validate on: never a part of the test set."""
    if samples.training is not None:
        return samples.training, samples.validation
    if data.name in DATASETS:
        images = load_images(data.name, data.folder)
        x, y = images.normalise(images.train_x[:-HELD_OUT]), images.train_y[:-HELD_OUT]
        return Shuffled(x, y, spec.batch, _AUGMENT[spec.augment]), _listed(*held_out(images))
    if data.name.endswith(".npz"):
        return _npz(Path(data.name), data.seed, spec.batch)
    raise DataError(
        f"{data.name} has no labelled training data: name a data set ({', '.join(DATASETS)}), an .npz file with the "
        "arrays train_x and train_y, or a callable that returns secateur.recipes.registry.Samples with `training`."
    )


def _npz(path: Path, seed: int, batch: int) -> tuple[Iterable[Any], Any]:
    """Train on nine tenths of the arrays train_x and train_y, validate on the rest."""
    with np.load(path, allow_pickle=False) as file:
        if not {"train_x", "train_y"} <= set(file.files):
            raise DataError(
                f"{path} has no arrays train_x and train_y to train on (it has {sorted(file.files)})."
            )
        x, y = torch.from_numpy(file["train_x"]), torch.from_numpy(file["train_y"]).long()
    if len(x) != len(y) or len(x) < 10:
        raise DataError(
            f"{path}: {len(x)} inputs train_x and {len(y)} labels train_y; both at least 10, and equal."
        )
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    held, left = order[: len(x) // 10], order[len(x) // 10 :]
    return Shuffled(x[left], y[left], min(batch, len(left))), _listed(x[held], y[held])


def _listed(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(batches(x, y, 500))


def _fading(steps: int | None) -> methods.GammaSchedule:
    return methods.Steady() if steps is None else methods.Fading(steps)


def _optimizer(spec: OptimizerSpec) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    match spec.name:
        case "sgd":
            return partial(
                torch.optim.SGD,
                lr=spec.lr,
                weight_decay=spec.weight_decay,
                momentum=spec.momentum,
                nesterov=spec.momentum > 0,
            )
        case "adam":
            return partial(torch.optim.Adam, lr=spec.lr, weight_decay=spec.weight_decay)
        case "adamw":
            return partial(torch.optim.AdamW, lr=spec.lr, weight_decay=spec.weight_decay)


def _schedule(spec: TrainingSpec) -> room.Schedule:
    match spec.schedule:
        case CosineSpec(warmup=warmup, end=end):
            return room.Cosine(warmup, end)
        case MultiStepSpec(epochs=epochs, factor=factor):
            return room.MultiStep(epochs, factor)
        case OneCycleSpec(rise=rise, start=start, end=end):
            return room.OneCycle(rise, start, end)
        case _:
            return room.Constant()


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"Cannot read the weights {path} as safetensors: {error}") from error
