"""From a selection to the edits of the eager model that carry it out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.graph.graph import Graph
from secateur.graph.groups import Kept
from secateur.graph.program import Shape
from secateur.ground.errors import SurgeryError
from secateur.ground.tensors import tensor_names

from .branches import remove_branches
from .callees import reads
from .plan import Edit, SetAttribute, SliceTensor, plain
from .prediction import Prediction, differences, predict

__all__ = ["edits", "owner_attributes"]


def edits(model: nn.Module, graph: Graph, kept: Kept) -> tuple[Edit, ...]:
    """Return the edits that carry out a selection: tensors to slice, attributes to set, branches to remove.

    Attributes of layers follow from their new weights. Those of other modules are set where they equal a
    constant that has to change; whether that was right is for `verify` to say.

    Raises:
        SurgeryError: the selection does not fit the graph, or a branch or tensor cannot be removed; the
            message names the group or the tensor.
    """
    prediction = predict(graph, kept)
    removals = remove_branches(model, graph, kept)
    gone = tuple(path for r in removals for path in (*r.constants, *r.removed, *r.skipped))
    shapes: dict[str, Shape] = {}
    sliced: list[Edit] = []
    for names in tensor_names(model):
        shape = prediction.parameters[names[0]]
        shapes.update(dict.fromkeys(names, shape))
        left = [name for name in names if name.rpartition(".")[0] not in gone]
        if left:
            sliced += _slices(graph, kept, names, left, shape)
    attributes = [*_layer_attributes(model, gone, shapes, prediction), *owner_attributes(model, prediction)]
    return (*sliced, *_unambiguous(attributes), *removals)


def _slices(
    graph: Graph, kept: Kept, names: tuple[str, ...], left: list[str], shape: Shape
) -> Iterator[SliceTensor]:
    for dim, (old, new) in enumerate(zip(graph.program.shapes[names[0]], shape, strict=True)):
        if new == old:
            continue
        if new == 0:
            raise SurgeryError(f"dimension {dim} of {names[0]} would be empty: keep a unit of its group")
        if len(left) < len(names):
            raise SurgeryError(f"{names[0]} is in a removed branch, but tied to {left[0]}, which is not")
        index = tuple(graph.surviving(names[0], dim, kept).tolist())
        yield SliceTensor(names, dim, index, old)


def _layer_attributes(
    model: nn.Module, gone: tuple[str, ...], shapes: Mapping[str, Shape], prediction: Prediction
) -> Iterator[SetAttribute]:
    calls: dict[int, tuple[Any, ...]] = {}
    for node in prediction.graph.program.nodes:
        if node.op == "group_norm" or node.op.startswith("conv"):
            calls[id(model.get_submodule(node.module))] = prediction.arguments(node)
    for path, module in model.named_modules():
        weight = shapes.get(f"{path}.weight" if path else "weight")
        mean = shapes.get(f"{path}.running_mean" if path else "running_mean")
        if path in gone:
            continue
        for attribute, new in _from_weight(module, weight or mean, calls.get(id(module))):
            old = vars(module).get(attribute)
            if type(old) is int and old != new:
                yield SetAttribute(path, attribute, old, new)


def _from_weight(
    module: nn.Module, weight: Shape | None, call: tuple[Any, ...] | None
) -> Iterator[tuple[str, int]]:
    """Yield the attributes that repeat sizes of the weight, and the number of groups of the call."""
    if isinstance(module, nn.GroupNorm) and call is not None:
        yield "num_groups", call[1]
    if weight is None:
        return
    match module:
        case nn.Linear():
            yield "out_features", weight[0]
            yield "in_features", weight[1]
        case _ConvNd():
            groups = call[6] if call is not None and len(call) > 6 else module.groups
            first, second = weight[0], weight[1] * groups
            transposed = isinstance(module, _ConvTransposeNd)
            yield "groups", groups
            yield "in_channels", first if transposed else second
            yield "out_channels", second if transposed else first
        case _NormBase():
            yield "num_features", weight[0]
        case nn.GroupNorm():
            yield "num_channels", weight[0]
        case _ if (
            type(module).__name__ == "Conv1D" and len(weight) == 2
        ):  # of transformers: a linear layer (GPT-2)
            yield "nx", weight[0]
            yield "nf", weight[1]
        case nn.Embedding() | nn.EmbeddingBag():
            yield "num_embeddings", weight[0]
            yield "embedding_dim", weight[1]


_NEVER = re.compile(
    "key_value_groups|n_rep|shift|window|ratio|patch|stride|kernel|padding|dilation|resolution|img"
)
"""Names of attributes that count something else than units, though their values may coincide."""


def owner_attributes(model: nn.Module, prediction: Prediction) -> Iterator[SetAttribute]:
    """Yield the attributes of modules other than layers that equal a constant which has to change.

    Those that no code reads may mean anything; numbers of heads are set for others to read.
    """
    for node in prediction.graph.program.nodes:
        if node.op == "group_norm" or node.op.startswith("conv"):
            continue
        module = model.get_submodule(node.module)
        if type(module).__name__ == "Conv1D":
            continue
        for _, old, new in differences(node.args, prediction.arguments(node)):
            for attribute, value in vars(module).items():
                if plain(value) != old or attribute.startswith("_") or _NEVER.search(attribute):
                    continue
                if "heads" in attribute or reads(type(module), attribute):
                    yield SetAttribute(node.module, attribute, old, new)


def _unambiguous(attributes: list[SetAttribute]) -> list[SetAttribute]:
    """Leave out attributes that two constants would set differently."""
    found: dict[tuple[str, str], set[SetAttribute]] = defaultdict(set)
    for edit in attributes:
        found[edit.module, edit.attribute].add(edit)
    return [next(iter(same)) for same in found.values() if len(same) == 1]
