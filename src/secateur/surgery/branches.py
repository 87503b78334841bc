"""Removing a residual branch that has lost all its units: which modules, and which constant it leaves."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from secateur.graph.branch import Branch
from secateur.graph.graph import Graph
from secateur.graph.groups import Kept
from secateur.graph.program import Node, references
from secateur.ground.errors import SurgeryError
from secateur.ground.tensors import tensors_of
from secateur.statistics.outlets import affine

from .modules import output_shape
from .plan import RemoveBranch

__all__ = ["constants", "emptied", "remove_branches"]


def emptied(graph: Graph, kept: Kept) -> dict[str, Branch]:
    """Return the branches of the groups that keep no unit, the outermost only.

    Raises:
        SurgeryError: such a group has no branch that could be removed.
    """
    found = {}
    for group, units in kept.items():
        if units:
            continue
        branch = graph.branch(group)
        if branch is None:
            raise SurgeryError(
                f"group {group} is not a residual branch that can go as a whole: keep one of its units"
            )
        found[group] = branch
    dead = {name for branch in found.values() for name in branch.dead}
    return {group: branch for group, branch in found.items() if not dead.issuperset(branch.constants)}


def remove_branches(model: nn.Module, graph: Graph, kept: Kept) -> tuple[RemoveBranch, ...]:
    """Return the edits that take out every branch without units.

    Raises:
        SurgeryError: a branch cannot be taken out of the model's modules; the message names the group.
    """
    edits = []
    for group, branch in emptied(graph, kept).items():
        if graph.group(group).kind == "head":
            # Attention cuts its projection into heads by sizes: no blank of one channel would pass.
            raise SurgeryError(f"the branch of group {group} is an attention: keep one of its heads")
        try:
            edits.append(_removal(model, graph, branch))
        except SurgeryError as error:
            raise SurgeryError(f"the branch of group {group} cannot be removed: {error}") from None
    return tuple(edits)


def _removal(model: nn.Module, graph: Graph, branch: Branch) -> RemoveBranch:
    node = {n.name: n for n in graph.program.nodes}
    ends = [node[name] for name in branch.constants]
    behind = [n for end in ends for n in branch.tails[end.name]]
    gone = {*branch.constants, *branch.dead, *(n.name for n in behind)}
    constants = _owners(model, graph, ends, gone)
    removed = _owners(model, graph, (node[name] for name in branch.dead), gone)
    for path in (*constants, *removed):
        output_shape(model.get_submodule(path), path)
    skipped = _owners(model, graph, behind, gone)
    last = {(end, *branch.tails[end.name])[-1].name for end in ends}
    join = node[branch.join]
    in_place = join.overload.startswith("aten.add_.") and not last.isdisjoint(references(join.args[0]))
    return RemoveBranch(constants, removed, skipped, written_out=in_place)


def _owners(model: nn.Module, graph: Graph, calls: Iterable[Node], gone: set[str]) -> tuple[str, ...]:
    """Return the modules of those calls that read parameters; all calls that such a module makes must go."""
    paths: dict[str, None] = {}
    for call in calls:
        path = call.module
        if not any(name in graph.program.parameters for name in references((call.args, call.kwargs))):
            continue
        made = {n.name for n in graph.program.nodes if f"{n.module}.".startswith(f"{path}.")}
        if not path or not made <= gone:
            raise SurgeryError(f"{path or type(model).__name__} makes calls that do not belong to the branch")
        paths[path] = None
    return tuple(paths)


def constants(model: nn.Module, graph: Graph, kept: Kept) -> dict[str, Tensor]:
    """Return what each removed branch adds: its last layer's bias, through the batch norms behind it.

    Keys are those of `Plan.tensors`; shapes (1, channels, 1, ...) for convolutions and (features,) for linear
    layers, with the channels that stay.

    Raises:
        SurgeryError: a group without units has no branch that could be removed.
    """
    layers = {layer.node: layer for layer in graph.layers}
    tensors = {name: tensor.detach() for name, tensor in tensors_of(model).items()}
    values = {}
    for branch in emptied(graph, kept).values():
        for name in branch.constants:
            layer = layers[name]
            weight = tensors[layer.weight]
            value = weight.new_zeros(layer.out_channels) if layer.bias is None else tensors[layer.bias]
            for node in branch.tails[name]:
                if node.op == "batch_norm" and (through := affine(node, graph, tensors)) is not None:
                    value = value * through.scale + through.shift
            channels = torch.from_numpy(graph.surviving_along(name, layer.channel_dim, kept))
            value = value[channels.to(value.device)]
            if layer.taps:
                value = value.reshape(1, -1, *[1] * (weight.ndim - 2))
            values[f"{layer.module}.value"] = value.cpu()
    return values
