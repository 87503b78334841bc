"""From the names in a recipe to models, data and functions.

``module:callable`` imports and calls what a recipe names: recipes are trusted like code, artefacts are not.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from secateur.data import DATASETS, calibration, demo_data, load_images
from secateur.ground.errors import DataError, RecipeError, UnknownNameError, did_you_mean
from secateur.measure import batches, top1
from secateur.zoo import PRETRAINED, models, pretrained

from .schema import DataSpec, ModelSpec
from .strict import TypeName

__all__ = [
    "Samples",
    "example_input",
    "import_callable",
    "resolve_data",
    "resolve_evaluate",
    "resolve_model",
    "resolve_type",
]

ZOO = {
    name: getattr(models, name)
    for name in ("lenet300", "lenet5", "resnet20", "resnet32", "resnet56", "vgg16_bn")
}
EXTRAS = {"torchvision": "vision", "timm": "timm"}


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


def resolve_model(spec: ModelSpec) -> nn.Module:
    """Make the model that a recipe names, in evaluation mode.

    Raises:
        UnknownNameError: no such model, module or callable.
        RecipeError: its package is not installed, arguments do not fit, or the weights cannot be loaded.
    """
    source, colon, name = spec.name.partition(":")
    if not colon or not name:
        raise UnknownNameError(
            f"Model {spec.name!r} has no source: write torchvision:NAME, timm:NAME, zoo:NAME or module:callable."
        )
    if source == "zoo":
        model = _zoo(name, spec.kwargs)
    elif source in EXTRAS:
        model = _library(source, name, spec.kwargs)
    else:
        model = _call(import_callable(spec.name), spec.name, spec.kwargs)
    if not isinstance(model, nn.Module):
        raise RecipeError(
            f"{spec.name} returned a {type(model).__name__}; a model has to be a torch.nn.Module."
        )
    if spec.weights is not None:
        _load_weights(model, spec.weights)
    return model.eval()


def example_input(name: str, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return a random input batch for a model by name; `shape` is needed where the name does not say it.

    Raises:
        RecipeError: the shape is not known.
    """
    source, _, rest = name.partition(":")
    if shape is None and source in EXTRAS:
        shape = (1, 3, 224, 224)
    if shape is None and source == "zoo":
        shape = (
            PRETRAINED[rest].input
            if rest in PRETRAINED
            else (1, 1, 28, 28)
            if "lenet" in rest
            else (1, 3, 32, 32)
        )
    if shape is None:
        raise RecipeError(
            f"The input shape of {name} is not known: add --input, for instance --input 1,3,224,224."
        )
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


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
    if spec.name.endswith(".npz"):
        return _npz(Path(spec.name), spec)
    if ":" in spec.name:
        made = _call(import_callable(spec.name), spec.name, spec.kwargs)
        if isinstance(made, Samples):
            return made
        if not isinstance(made, Iterable):
            raise DataError(
                f"{spec.name} returned a {type(made).__name__}; expected an iterable of input batches."
            )
        return Samples(made)
    if spec.kwargs:
        raise RecipeError(f"data.kwargs are for module:callable; {spec.name!r} takes none.")
    if spec.name == "demo":
        demo = demo_data()
        return _samples(
            demo.normalise(demo.calibration_x[: spec.calibration]),
            demo.normalise(demo.test_x),
            demo.test_y,
            spec.batch,
        )
    if spec.name not in DATASETS:
        known = ["demo", *DATASETS]
        raise UnknownNameError(
            f"No data set is called {spec.name!r}; known: {', '.join(known)}, a path that ends in .npz, or "
            f"module:callable.{did_you_mean(spec.name, known)}"
        )
    data = load_images(spec.name, spec.folder)
    x = calibration(data, spec.calibration, spec.seed)
    return _samples(x, data.normalise(data.test_x), data.test_y, spec.batch)


def resolve_evaluate(name: str) -> Callable[[nn.Module], float]:
    """Import the function that scores a model.

    Raises:
        UnknownNameError: no such module or callable.
    """
    return import_callable(name)


def resolve_type(spec: TypeName) -> type[nn.Module]:
    """Return the class of layers that a recipe excludes: a name in torch.nn, or ``module:Class``.

    Raises:
        UnknownNameError: no such class.

    >>> resolve_type(TypeName(type="Linear"))
    <class 'torch.nn.modules.linear.Linear'>
    """
    if ":" in spec.type:
        found: Any = import_callable(spec.type)
    else:
        name = spec.type.removeprefix("torch.").removeprefix("nn.")
        found = getattr(nn, name, None)
        if found is None:
            raise UnknownNameError(f"torch.nn has no class {name!r}.{did_you_mean(name, dir(nn))}")
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise UnknownNameError(f"{spec.type} is not a class of torch modules.")
    return found


def import_callable(name: str) -> Callable[..., Any]:
    """Import ``module:callable``; the callable may be nested (``package.module:Class.method``).

    Raises:
        UnknownNameError: the module or the callable is not there.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise UnknownNameError(f"{name!r} is not of the form module:callable.")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as e:
        missing = (
            f"its import of {e.name!r} fails"
            if e.name and not module_name.startswith(e.name)
            else "not found"
        )
        raise UnknownNameError(
            f"Cannot import the module {module_name!r} of {name!r}: {missing}. "
            "Modules are looked up beside the recipe, in the current folder, and among the installed packages."
        ) from e
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UnknownNameError(f"{module_name!r} has no {part!r}.{did_you_mean(part, dir(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise UnknownNameError(f"{name} is a {type(found).__name__}, which cannot be called.")
    return found  # type: ignore[no-any-return]


def _zoo(name: str, kwargs: Mapping[str, Any]) -> Any:
    if name in PRETRAINED:
        if kwargs:
            raise RecipeError(f"zoo:{name} is a trained network and takes no arguments.")
        return pretrained(name)
    if name not in ZOO:
        known = [*PRETRAINED, *ZOO]
        raise UnknownNameError(
            f"The zoo has no model {name!r}; known: {', '.join(known)}.{did_you_mean(name, known)}"
        )
    return _call(ZOO[name], f"zoo:{name}", kwargs)


def _library(source: str, name: str, kwargs: Mapping[str, Any]) -> Any:
    try:
        library = importlib.import_module("torchvision.models" if source == "torchvision" else "timm")
    except ModuleNotFoundError as e:
        raise RecipeError(
            f"{source}:{name} needs {source}, which is not installed: pip install 'secateur[{EXTRAS[source]}]'."
        ) from e
    # timm names weights after a dot: resnet18.a1_in1k
    known = library.list_models()
    if name.partition(".")[0] not in known:
        raise UnknownNameError(f"{source} has no model {name!r}.{did_you_mean(name, known)}")
    make = library.get_model if source == "torchvision" else library.create_model
    try:
        return make(name, **kwargs)
    except (TypeError, ValueError, KeyError, RuntimeError, OSError) as e:
        raise RecipeError(f"{source}:{name} cannot be made with {dict(kwargs)}: {e}") from e


def _call(function: Callable[..., Any], name: str, kwargs: Mapping[str, Any]) -> Any:
    try:
        inspect.signature(function).bind(**kwargs)
    except TypeError as e:
        raise RecipeError(f"{name} cannot be called with {dict(kwargs)}: {e}.") from e
    except ValueError:
        pass  # a built-in without a signature
    return function(**kwargs)


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as e:
        raise RecipeError(f"Cannot read the weights {path} as safetensors: {e}") from e
    try:
        model.load_state_dict(tensors)
    except RuntimeError as e:
        raise RecipeError(f"The weights {path} do not fit the model: {' '.join(str(e).split())}") from e


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
