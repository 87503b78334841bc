"""From what the command line names to networks: a model, or a saved artefact with the model that it was made of."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from secateur.artefact.load import document
from secateur.artefact.manifest import RECIPE
from secateur.ground.documents import parse_yaml
from secateur.recipes.models import SOURCES, example_input, resolve_model
from secateur.recipes.recipe import ModelSpec

from .common import refused, say, sizes

__all__ = ["dense_of", "model_of"]

LARGEST = 2**26  # numbers of an example input that an artefact may ask for
# Arguments that an artefact may give a model of a library: none that names a file, a folder or an address.
HARMLESS: Mapping[str, type | tuple[type, ...]] = {
    "num_classes": int,
    "in_chans": int,
    "width": (int, float),
    "pretrained": bool,
    "weights": str,
}


def model_of(name: str, shape: str | None) -> tuple[nn.Module, Tensor]:
    """Make a model and an example input for it."""
    return resolve_model(ModelSpec(name)), example_input(name, sizes(shape))


def dense_of(artefact: Path, name: str | None, shape: str | None) -> tuple[nn.Module, Tensor]:
    """Make the dense model of an artefact and an example input for it.

    Both are taken from the artefact's recipe where the user does not name them, but only a model of a library: an
    artefact is not trusted, so that no module of hers, or of whoever made it, is imported because it says so.
    """
    recipe = parse_yaml(document(artefact, RECIPE), RECIPE)
    recipe = recipe if isinstance(recipe, dict) else {}
    if name is None:
        spec = _spec(recipe.get("model"))
        say(f"The dense model is {spec.name}, as the recipe of {artefact} says.")
    else:
        spec = ModelSpec(name)
    given = sizes(shape)
    if given is None and (asked := _shape(recipe.get("example"))) is not None:
        say(f"The input is {','.join(map(str, asked))}, as the recipe of {artefact} says.")
        given = asked
    return resolve_model(spec), example_input(spec.name, given)


def _spec(said: Any) -> ModelSpec:
    """Return the model that an artefact's recipe names, if it may."""
    data = {"name": said} if isinstance(said, str) else said if isinstance(said, dict) else {}
    name, options = data.get("name"), data.get("kwargs") or {}
    if not isinstance(name, str) or not isinstance(options, dict):
        raise refused(
            "an artefact is made anew from its dense model, which its recipe does not name: add --model NAME"
        )
    if name.partition(":")[0] not in SOURCES:
        raise refused(
            f"an artefact is made anew from its dense model. Its recipe says {name}, but artefacts are not trusted to "
            f"run code: if you trust that, repeat it, --model {name}"
        )
    if data.get("weights") is not None:
        raise refused(
            f"the dense model has weights of its own ({data['weights']}), which are not looked for because an artefact "
            "says so: write a function that returns the model with its weights, and name it, --model module:callable"
        )
    for key, value in options.items():
        if not isinstance(value, HARMLESS.get(key, ())) or not re.fullmatch(r"[\w.]*", str(value)):
            raise refused(
                f"the dense model is {name} with {key}={value!r}, which is not taken from an artefact: write a "
                "function that returns it, and name that, --model module:callable"
            )
    return ModelSpec(name, options)


def _shape(said: Any) -> tuple[int, ...] | None:
    whole = isinstance(said, list) and said and all(type(n) is int and n > 0 for n in said)
    return tuple(said) if whole and math.prod(said) <= LARGEST else None
