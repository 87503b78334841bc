"""The table of names: what recipes, reports and the command line call methods and their parts.

A method of yours needs no entry: a recipe names it as ``module:Class``, or by the name under which your package has it
as an entry point of the group ``secateur.methods``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from secateur.blocks import AcrossLayers, Assignment, EachLayer, Joint, Place, PruneFirst, Spread
from secateur.export.target import OnnxRuntime, OpenVINO, Target, Torch
from secateur.ground.errors import UnknownNameError, did_you_mean
from secateur.ground.importing import import_callable, name_of
from secateur.ground.plain import Form, Names
from secateur.recovery import OnePass, Recovery, Sequential
from secateur.selection import Allocation, LossPerCost, Standardised, Threshold, Uniform
from secateur.training import Constant, Cosine, Global, LayerWise, MultiStep, OneCycle, Schedule, Scope
from secateur.training.optimizers import SGD, Adam, AdamW
from secateur.training.options import OptimizerFactory

from .activation import ActivationMagnitude, Fluctuation
from .admm import ADMM
from .baselines import BatchNormScale, Magnitude, Random
from .block_costs import Criterion, OutputError, WeightError
from .dead_units import DeadUnits
from .gradual import GradualMagnitude
from .irrelevance import Fading, GammaSchedule, IrrelevanceDecay, Steady, WeightDecay
from .lobster import Lobster
from .microstructure import MicroStructured
from .nn_relief import NNRelief
from .orders import ZCA, Conditional, Output, Pivot, Variance, Weights
from .protocol import Method
from .ranking import Order
from .snp import SNP
from .taylor import Taylor

__all__ = ["METHODS", "names"]

METHODS: tuple[type, ...] = (
    SNP, Magnitude, Random, BatchNormScale, Taylor, ActivationMagnitude, Fluctuation, DeadUnits, MicroStructured,
    IrrelevanceDecay, WeightDecay, GradualMagnitude, Lobster, NNRelief, ADMM,
)  # fmt: skip
PARTS: Mapping[Any, tuple[type, ...]] = {
    Order: (Output, ZCA, Conditional, Pivot, Variance, Weights),
    Allocation: (LossPerCost, Uniform, Threshold, Standardised),
    Recovery: (Sequential, OnePass),
    Criterion: (WeightError, OutputError),
    Spread: (EachLayer, AcrossLayers),
    Assignment: (Joint, PruneFirst),
    GammaSchedule: (Steady, Fading),
    Scope: (Global, LayerWise),
    Schedule: (Constant, Cosine, MultiStep, OneCycle),
    OptimizerFactory: (SGD, Adam, AdamW),
}


@cache
def names() -> Names:
    """Return what plain data may call methods and their parts, those of installed packages included."""
    found: dict[Any, Any] = {kind: _named(classes) for kind, classes in PARTS.items()}
    found[Method] = _named(METHODS) | {"snp-paper": SNP.paper}
    found[Method] |= {name: cls for name, cls in _strangers() if name not in found[Method]}
    found[Target] = {"torch": Torch, "onnxruntime": OnnxRuntime, "openvino": OpenVINO}
    found[type[nn.Module]] = Form(TypeName, _layer_type, _type_name)
    found[Mapping[str, Tensor]] = Form(Path, _tensors, _no_file)
    found[Place] = Form(PlaceName, lambda data: _PLACES[data.place], _place_name)
    return found


@dataclass(frozen=True)
class TypeName:
    """All layers of a class: a name in torch.nn, or ``module:Class``."""

    type: str


@dataclass(frozen=True)
class PlaceName:
    """The layer that stands in a place."""

    place: Literal["first-convolution", "head"]


def _strangers() -> Iterator[tuple[str, type]]:
    """Yield the methods of installed packages; one that cannot be used is left out with a warning."""
    for entry in entry_points(group="secateur.methods"):
        try:
            cls = entry.load()
        except Exception as error:  # whatever a package does on import
            warnings.warn(
                f"The method {entry.name} ({entry.value}) cannot be imported: {error}", stacklevel=2
            )
            continue
        lacks = [name for name in ("label", "needs", "draft") if not hasattr(cls, name)]
        if not isinstance(cls, type) or not is_dataclass(cls) or lacks:
            why = f"it has no {lacks[0]}" if lacks else "it is no dataclass"
            warnings.warn(f"The method {entry.name} ({entry.value}) cannot be used: {why}.", stacklevel=2)
            continue
        yield entry.name, cls


def _named(classes: tuple[type, ...]) -> dict[str, Callable[..., Any]]:
    return {_kebab(cls.__name__): cls for cls in classes}


def _kebab(name: str) -> str:
    """Return a name of Python as it stands in a file.

    >>> [_kebab(name) for name in ("NNRelief", "ZCA", "MicroStructured", "AdamW", "FIRST_CONVOLUTION")]
    ['nn-relief', 'zca', 'micro-structured', 'adamw', 'first-convolution']
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z][A-Za-z])|(?<=[A-Z])(?=[A-Z][a-z])|_", "-", name).lower()


def _layer_type(data: TypeName) -> type[nn.Module]:
    found: Any = import_callable(data.type) if ":" in data.type else getattr(nn, _in_torch(data.type), None)
    if found is None:
        name = _in_torch(data.type)
        raise UnknownNameError(f"torch.nn has no class {name!r}.{did_you_mean(name, dir(nn))}")
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise UnknownNameError(f"{data.type} is not a class of torch modules.")
    return found


def _in_torch(name: str) -> str:
    return name.removeprefix("torch.").removeprefix("nn.")


def _type_name(cls: Any) -> TypeName:
    if not isinstance(cls, type) or not issubclass(cls, nn.Module):
        raise ValueError("no class of torch modules")
    plain = getattr(nn, cls.__name__, None) is cls
    return TypeName(cls.__name__ if plain else name_of(cls) or cls.__name__)


def _tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error


def _no_file(tensors: Any) -> Path:
    raise ValueError("tensors stand in a file of their own")


_PLACES: Mapping[str, Place] = {_kebab(place.name): place for place in Place}


def _place_name(place: Any) -> PlaceName:
    if not isinstance(place, Place):
        raise ValueError("no place")
    name: Any = _kebab(place.name)
    return PlaceName(name)
