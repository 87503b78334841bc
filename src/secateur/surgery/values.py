"""The values that a plan sets after its edits: from repaired tensors, or from a model of the plan's shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.blocks import BlockPattern
from secateur.graph import Graph, Kept
from secateur.ground.copies import copied
from secateur.ground.tensors import tensor_names, tensors_of
from secateur.statistics import state_tensors

from .apply import apply
from .branches import constants
from .fit import fingerprint
from .plan import Plan, RemoveBranch
from .planning import make_plan

__all__ = ["repaired", "revalued", "whole"]


def whole(model: nn.Module) -> Plan:
    """Return the plan that leaves a model as it is."""
    return Plan({}, (), fingerprint(model))


def repaired(
    model: nn.Module, graph: Graph, kept: Kept, tensors: Mapping[str, Tensor], draft: Plan | None = None
) -> Plan:
    """Return the plan of a selection with repaired tensors, which come in the dense network's shapes.

    `draft` is a plan of the same selection whose edits are known to be right; without one they are found here.
    """
    dense = state_tensors(graph.program)
    changed = {
        n for n, value in tensors.items() if value is not dense[n] and not torch.equal(value, dense[n])
    }
    source = _with(model, tensors, changed)
    plan = (
        make_plan(source, graph, kept)
        if draft is None
        else replace(draft, tensors=constants(source, graph, kept))
    )
    gone = tuple(f"{path}." for e in plan.edits if isinstance(e, RemoveBranch) for path in e.paths)
    left = {name for name in model.state_dict() if not name.startswith(gone)}
    values: dict[str, Tensor] = {}
    for name in sorted(changed & left):
        value = tensors[name].cpu()  # a plan is of no device
        for dim in range(value.ndim):
            value = value.index_select(dim, torch.from_numpy(graph.surviving(name, dim, kept)))
        values[name] = value.contiguous()
    return replace(plan, tensors={**plan.tensors, **values})


def revalued(
    plan: Plan, dense: nn.Module, model: nn.Module, patterns: Mapping[str, BlockPattern] | None = None
) -> Plan:
    """Return a plan from `dense` that ends in the values of `model`, which has the plan's shapes.

    `patterns` take the place of the plan's own, where they are given.
    """
    old, new = tensors_of(apply(dense, plan)), tensors_of(model)
    names = [group[0] for group in tensor_names(model)]
    changed = {n: new[n].detach().to("cpu", copy=True) for n in names if not torch.equal(new[n], old[n])}
    chosen = plan.patterns if patterns is None else dict(patterns)
    return replace(plan, tensors={**plan.tensors, **changed}, patterns=chosen)


def _with(model: nn.Module, tensors: Mapping[str, Tensor], names: set[str]) -> nn.Module:
    """Return the dense model with some tensors replaced, no memory copied: removed branches take constants from it."""
    memo: dict[int, Any] = {}
    for name, tensor in tensors_of(model).items():
        value = tensors[name].to(tensor) if name in names else tensor.detach()
        memo[id(tensor)] = (
            nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
        )
    return copied(model, memo)
