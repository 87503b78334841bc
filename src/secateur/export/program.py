"""A model as an exported program that can be shipped: free sizes, none of the user's paths or data in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from secateur.graph.export import export_program
from secateur.ground.errors import ExportError
from secateur.ground.inputs import Example, Inputs

__all__ = ["Portable", "portable"]


@dataclass(frozen=True)
class Portable:
    """An exported program, and the example inputs from which it was made."""

    exported: ExportedProgram
    free: tuple[int, ...]  # dimensions of the inputs that may have any size
    flat: list[Any]  # the example
    spec: pytree.TreeSpec  # of (args, kwargs)


def portable(model: nn.Module, example: Example, free: tuple[int, ...]) -> Portable:
    """Export a model in evaluation mode; `free` dimensions of its inputs may have any size afterwards.

    Where the model's code fixes the batch size, and nothing but that was asked to be free, all sizes are fixed.

    Raises:
        TraceError: torch.export refuses the model.
        ExportError: the model's code fixes a size that was asked to be free.
    """
    given = Inputs.of(example).beside(model)
    args, kwargs = given.args, dict(given.kwargs)
    program = export_program(model, args, kwargs, free=free) if free else None
    if program is None or not program.dynamic:
        if any(d > 0 for d in free):
            raise ExportError(
                f"{type(model).__name__} cannot be exported with the dimensions {free} of its inputs free: its code "
                "fixes one of them. Ask for fewer, for instance free=(0,) for the batch alone; an example must be "
                "longer than one along them."
            )
        free = ()
        program = export_program(model, args, kwargs, free=())
    flat, spec = pytree.tree_flatten((args, kwargs))
    exported = program.exported
    _anonymous(exported)
    return Portable(exported, free, flat, spec)


def _anonymous(exported: ExportedProgram) -> None:
    """Remove what a file would carry out of the house: example data, and source lines with this machine's paths."""
    zeros = pytree.tree_map(
        lambda x: torch.zeros_like(x) if isinstance(x, Tensor) else x, exported.example_inputs
    )
    exported.example_inputs = zeros
    for module in exported.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)
