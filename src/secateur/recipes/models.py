"""From the name of a model in a recipe to the network."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from secateur.ground.errors import RecipeError, UnknownNameError, did_you_mean
from secateur.ground.importing import import_callable
from secateur.zoo import PRETRAINED, models, pretrained

from .recipe import ModelSpec

__all__ = ["SOURCES", "call", "example_input", "load_tensors", "resolve_model"]

ZOO = {
    name: getattr(models, name)
    for name in ("lenet300", "lenet5", "resnet20", "resnet32", "resnet56", "vgg16_bn")
}
EXTRAS = {"torchvision": "vision", "timm": "timm"}
SOURCES = ("zoo", *EXTRAS)  # whose models are made by no code of the user's


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
        model = call(import_callable(spec.name), spec.name, spec.kwargs)
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


def call(function: Callable[..., Any], name: str, kwargs: Mapping[str, Any]) -> Any:
    """Call what a recipe names with its arguments.

    Raises:
        RecipeError: the arguments do not fit.
    """
    try:
        inspect.signature(function).bind(**kwargs)
    except TypeError as e:
        raise RecipeError(f"{name} cannot be called with {dict(kwargs)}: {e}.") from e
    except ValueError:
        pass  # a built-in without a signature
    return function(**kwargs)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises:
        RecipeError: it cannot be read.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"Cannot read the weights {path} as safetensors: {error}") from error


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
    return call(ZOO[name], f"zoo:{name}", kwargs)


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


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(load_tensors(path))
    except RuntimeError as e:
        raise RecipeError(f"The weights {path} do not fit the model: {' '.join(str(e).split())}") from e
