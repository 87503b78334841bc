"""Which weights of a model are cut into blocks, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from torch import nn

from secateur.ground.errors import StructureError
from secateur.ground.patterns import Pattern, check_patterns, matches

from .block import Block
from .partition import Partition

__all__ = ["SKIPPED", "Blockable", "Place", "Skip", "blockable"]

_CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d
_TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


class Place(Enum):
    """Layers that are named by where they stand, in the order in which the model holds its modules."""

    FIRST_CONVOLUTION = "the first convolution"
    HEAD = "the head"  # the last layer


Skip = Pattern | Place

SKIPPED: tuple[Skip, ...] = (Place.FIRST_CONVOLUTION, Place.HEAD, nn.Embedding)
"""What stays whole by default: few weights that much depends on, and tables, which often are tied to the head."""


@dataclass(frozen=True)
class Blockable:
    """The partitions of the weights that are cut into blocks, by parameter, and why others stay whole."""

    partitions: Mapping[str, Partition]
    skipped: Mapping[str, str]


def blockable(
    model: nn.Module,
    block: Block,
    skip: Iterable[Skip] = SKIPPED,
    blocks: Mapping[str, Block] | None = None,
) -> Blockable:
    """Return how the weights of linear layers, convolutions, attention projections and embeddings are cut.

    Biases and gains are never cut; what `skip` names stays whole, and so does a weight that is smaller than the
    block. `blocks` gives layers that globs over module paths name a block of their own.

    Raises:
        UnknownNameError: a glob matches no module.
        StructureError: a block that `blocks` gives is larger than the layer, or nothing is left to cut.

    >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> found = blockable(net, Block(8, 1))
    >>> list(found.partitions), dict(found.skipped)
    (['0.weight'], {'2.weight': 'the head'})
    """
    skip, blocks = tuple(skip), dict(blocks or {})
    check_patterns(model, [s for s in skip if not isinstance(s, Place)], "skip")
    check_patterns(model, blocks, "blocks")
    partitions: dict[str, Partition] = {}
    skipped: dict[str, str] = {}
    weights = _weights(model)
    places = _places(model, [w.path for w in weights])
    for weight in weights:
        own = [b for glob, b in blocks.items() if matches(model, weight.path, glob)]
        reason = _reason(model, weight.path, skip, places)
        if reason is not None:
            skipped[weight.name] = reason
            continue
        try:
            chosen = own[-1] if own else block
            partitions[weight.name] = Partition(chosen, weight.shape, weight.groups, weight.inputs_first)
        except StructureError as error:
            if own:
                raise StructureError(f"{weight.path}: {error}") from None
            skipped[weight.name] = f"smaller than a block of {block}"
    if not partitions:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise StructureError(
            f"No weight of this model can be cut into blocks of {block} ({reasons or 'none'})."
        )
    return Blockable(partitions, skipped)


@dataclass(frozen=True)
class _Weight:
    name: str
    path: str  # of the module
    shape: tuple[int, ...]
    groups: int = 1
    inputs_first: bool = False


def _weights(model: nn.Module) -> list[_Weight]:
    """Return the weights that are matrices, each shared one once; computed weights are no parameters."""
    names = dict((parameter, name) for name, parameter in model.named_parameters())
    found: dict[str, _Weight] = {}

    def add(path: str, parameter: object, groups: int = 1, inputs_first: bool = False) -> None:
        name = names.get(parameter) if isinstance(parameter, nn.Parameter) else None
        if name is not None and name not in found:
            found[name] = _Weight(name, path, tuple(parameter.shape), groups, inputs_first)  # type: ignore[attr-defined]

    for path, module in model.named_modules():
        own = module._parameters
        match module:
            case nn.Linear():
                add(path, own.get("weight"))
            case nn.Embedding():
                add(path, own.get("weight"), inputs_first=True)
            case nn.MultiheadAttention():
                for key in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
                    add(path, own.get(key))
            case _ if isinstance(module, _CONVOLUTIONS):
                add(path, own.get("weight"), module.groups)
            case _ if isinstance(module, _TRANSPOSED):
                add(path, own.get("weight"), module.groups, inputs_first=True)
            case _ if type(module).__name__ == "Conv1D" and getattr(own.get("weight"), "ndim", 0) == 2:
                add(path, own.get("weight"), inputs_first=True)  # of transformers: x @ weight
    return list(found.values())


def _places(model: nn.Module, paths: list[str]) -> dict[str, Place]:
    places: dict[str, Place] = {}
    convolutions = [p for p in paths if isinstance(model.get_submodule(p), _CONVOLUTIONS)]
    others = [p for p in paths if not isinstance(model.get_submodule(p), nn.Embedding)]
    if len(others) > 1:
        places[others[-1]] = Place.HEAD
        if convolutions:
            places[convolutions[0]] = Place.FIRST_CONVOLUTION
    return places


def _reason(model: nn.Module, path: str, skip: tuple[Skip, ...], places: Mapping[str, Place]) -> str | None:
    for entry in skip:
        if isinstance(entry, Place):
            if places.get(path) is entry:
                return entry.value
        elif matches(model, path, entry):
            return f"skip names {entry if isinstance(entry, str) else entry.__name__}"
    return None
