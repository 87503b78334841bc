"""Tracing: from a model to its graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from secateur.ground.errors import TraceError
from secateur.ground.inputs import BatchDims, Inputs

from .analysis import analyse
from .branch import find_branches
from .export import export_program
from .graph import Graph
from .grouping import find_frozen, find_groups
from .layers import find_layers
from .program import Program
from .refusal import check_kind, check_runs

__all__ = ["analyse_program", "trace", "traced"]


def trace(model: nn.Module, *args: Any, batch_dims: BatchDims | None = None, **kwargs: Any) -> Graph:
    """Trace a model on example inputs and find its prunable groups, without running it.

    The model is exported as it is in eval mode, and left as it was. Which dimension of the inputs counts samples is
    found: the first one of the first tensor, or the second where the model mixes what lies along the first; and of
    the other inputs what is always as long. Batches of other sizes are then taken, where the model allows it.
    `batch_dims` says it where that is not enough: ``(1, None)`` for a sequence with the batch second and a mask
    without one, ``()`` where a call has no batch (one graph), ``{"x": 1}`` by keyword.

    Raises:
        TraceError: the model was compiled or exported already, cannot be exported, or does not even run on these
            inputs: only then is it called. Or `batch_dims` does not fit the inputs.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> graph = trace(model, torch.zeros(1, 4))
    >>> [(g.id, g.size) for g in graph.groups], graph.total_macs()
    ([('0', 8)], 48)
    >>> graph.total_macs({"0": (0, 3)}), graph.shapes({"0": (0, 3)})["2.weight"]
    (12, (2, 2))
    """
    check_kind(model)
    given = Inputs(args, kwargs, batch_dims).beside(model)
    args, kwargs, dims = given.args, dict(given.kwargs), given.dims()
    try:
        program = export_program(model, args, kwargs, batch_dims=dims)
    except TraceError:
        check_runs(model, args, kwargs)
        raise
    return analyse_program(program)


def traced(model: nn.Module, inputs: Inputs) -> Graph:
    """Trace a model on inputs; see `trace`."""
    return trace(model, *inputs.args, batch_dims=inputs.batch_dims, **inputs.kwargs)


def analyse_program(program: Program) -> Graph:
    """Return the graph of a program that was exported already."""
    analysis = analyse(program)
    layers = find_layers(program)
    groups, units, lonely = find_groups(program, analysis, layers)
    branches = find_branches(program, analysis, units, layers, groups)
    return Graph(
        program=program,
        groups=tuple(replace(g, removable=g.id in branches) for g in groups),
        frozen=(*find_frozen(analysis), *lonely),
        layers=layers,
        branches=branches,
        _analysis=analysis,
        _units=units,
    )
