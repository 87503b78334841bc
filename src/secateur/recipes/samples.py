"""From the name of data in a recipe to calibration batches, a score, and data to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.data import (
    DATASETS,
    Shuffled,
    calibration,
    demo_data,
    held_out,
    load_images,
    shift_and_mirror,
    shifted,
)
from secateur.data.images import HELD_OUT
from secateur.ground.errors import DataError, RecipeError, UnknownNameError, did_you_mean
from secateur.ground.importing import import_callable
from secateur.measure import batches, top1

from .models import call
from .recipe import DataSpec

__all__ = ["Samples", "resolve_data", "training_data"]

_AUGMENT: dict[str, Callable[[Tensor], Tensor] | None] = {
    "none": None,
    "shift": shifted,
    "shift-and-mirror": shift_and_mirror,
}


@dataclass(frozen=True)
class Samples:
    """Calibration batches, and a way to score a model where labels are known.

    Methods that train also need `training`, batches of (inputs, labels), and `validation`, such batches out of the
    training set or a function that scores a model on them.
    """

    calibration: Iterable[Any]
    evaluate: Callable[[nn.Module], float] | None = None
    training: Iterable[Any] | None = None
    validation: Iterable[Any] | Callable[[nn.Module], float] | None = None


def resolve_data(spec: DataSpec) -> Samples:
    """Load the calibration data that a recipe names.

    * A registry name: a seeded draw of training images; evaluation is top-1 accuracy on the test set. ``demo`` is
      the images that come with the package.
    * A path that ends in .npz: the array ``calibration`` (N, ...), ready for the model; where arrays ``x`` and ``y``
      are there, evaluation is top-1 accuracy on them.
    * ``module:callable``: called with `kwargs`, it returns an iterable of input batches, or `Samples`.

    Raises:
        UnknownNameError: no such data set, module or callable.
        DataError: the data cannot be had or have the wrong form.
    """
    _refuse_useless(spec)
    if spec.name.endswith(".npz"):
        return _npz(Path(spec.name), spec)
    if ":" in spec.name:
        made = call(import_callable(spec.name), spec.name, spec.kwargs)
        if isinstance(made, Samples):
            return made
        if not isinstance(made, Iterable):
            raise DataError(
                f"{spec.name} returned a {type(made).__name__}; expected an iterable of input batches."
            )
        return Samples(made)
    if spec.name == "demo":
        demo = demo_data()
        return _samples(
            demo.normalise(demo.calibration_x[: spec.calibration]),
            demo.normalise(demo.test_x),
            demo.test_y,
            spec.batch,
        )
    data = load_images(spec.name, spec.folder)
    x = calibration(data, spec.calibration, spec.seed)
    return _samples(x, data.normalise(data.test_x), data.test_y, spec.batch)


def _refuse_useless(spec: DataSpec) -> None:
    """Refuse an unknown name, and options that would be passed over in silence."""
    own, known = ":" in spec.name, ["demo", *DATASETS]
    if not own and not spec.name.endswith(".npz") and spec.name not in known:
        raise UnknownNameError(
            f"No data set is called {spec.name!r}; known: {', '.join(known)}, a path that ends in .npz, or "
            f"module:callable.{did_you_mean(spec.name, known)}"
        )
    whose = {"augment": "the data sets", "folder": "the data sets", "kwargs": "module:callable"}
    useless = ("augment", "folder") if own else ("kwargs",) if spec.name in DATASETS else tuple(whose)
    for option in useless:
        if getattr(spec, option) != getattr(DataSpec(spec.name), option):
            raise RecipeError(
                f"data.{option} is for {whose[option]}; {spec.name!r} has no use for it: leave it out."
            )


def training_data(data: DataSpec, samples: Samples) -> tuple[Iterable[Any], Any]:
    """Return batches to train on, and what to validate on: never a part of the test set.

    Raises:
        DataError: the data have no labelled training part.
    """
    if samples.training is not None:
        return samples.training, samples.validation
    if data.name in DATASETS:
        images = load_images(data.name, data.folder)
        x, y = images.normalise(images.train_x[:-HELD_OUT]), images.train_y[:-HELD_OUT]
        return Shuffled(x, y, data.train_batch, _AUGMENT[data.augment]), _listed(*held_out(images))
    if data.name.endswith(".npz"):
        return _npz_training(Path(data.name), data.seed, data.train_batch)
    raise DataError(
        f"{data.name} has no labelled training data: name a data set ({', '.join(DATASETS)}), an .npz file with the "
        "arrays train_x and train_y, or a callable that returns secateur.recipes.Samples with `training`."
    )


def _npz(path: Path, spec: DataSpec) -> Samples:
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        with np.load(path, allow_pickle=False) as f:
            arrays = {key: f[key] for key in ("calibration", "x", "y") if key in f}
            found = sorted(f.files)
    except (OSError, ValueError, EOFError) as e:
        raise DataError(f"Cannot read {path} as .npz: {e}") from e
    if "calibration" not in arrays:
        raise DataError(
            f"{path} has no array 'calibration' (it has {found}).{did_you_mean('calibration', found)}"
        )
    tensors = {
        key: _inputs(a, f"{path}: {key}") if key != "y" else torch.from_numpy(a) for key, a in arrays.items()
    }
    x = tensors["calibration"]
    index = torch.randperm(len(x), generator=torch.Generator().manual_seed(spec.seed))[: spec.calibration]
    if "x" not in tensors or "y" not in tensors:
        return Samples(x[index].split(spec.batch))
    if len(tensors["x"]) != len(tensors["y"]):
        raise DataError(f"{path}: {len(tensors['x'])} inputs x, but {len(tensors['y'])} labels y.")
    return _samples(x[index], tensors["x"], tensors["y"].long(), spec.batch)


def _npz_training(path: Path, seed: int, batch: int) -> tuple[Iterable[Any], Any]:
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


def _inputs(array: np.ndarray, what: str) -> Tensor:
    if array.dtype == np.uint8:
        raise DataError(
            f"{what} is uint8; inputs have to be what the model takes: normalise them to float32 first."
        )
    if array.ndim < 2 or not len(array):
        raise DataError(f"{what} has the shape {array.shape}; expected samples along the first dimension.")
    return torch.from_numpy(array.astype(np.float32) if array.dtype.kind == "f" else array)


def _samples(x: Tensor, test_x: Tensor, test_y: Tensor, batch: int) -> Samples:
    return Samples(x.split(batch), lambda model: top1(model, batches(test_x, test_y, batch)))


def _listed(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(batches(x, y, 500))
