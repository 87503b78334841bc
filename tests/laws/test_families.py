"""Laws 1, 2, 3 and 10, and the whole line, over networks of families that no library of image models has."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, Family
from models import random_selection
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import secateur as sc
from secateur.artefact import load, save
from secateur.graph import Graph, trace
from secateur.ground.inputs import Inputs
from secateur.measure import macs
from secateur.measure.count import macs_of_a_run
from secateur.surgery import Plan, apply, make_plan, mask, verify
from secateur.surgery.candidates import candidates

CASES = {case.name: case for case in FAMILIES}
MASKED = ("masked_autoencoder", "routed_experts")  # how much work there is depends on values
each = pytest.mark.parametrize("case", FAMILIES, ids=lambda case: case.name)


@cache
def traced(name: str) -> tuple[nn.Module, Graph]:
    model = CASES[name].model()
    return model, trace(model, *CASES[name].inputs(2))


@cache
def pruned(name: str) -> tuple[Plan, nn.Module]:
    model, graph = traced(name)
    kept = {id: units for id, units in random_selection(graph, 0.35, 0).items() if id in CASES[name].groups}
    plan = make_plan(model, graph, kept)
    return plan, apply(model, plan)


def outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    with torch.no_grad():
        return [leaf for leaf in pytree.tree_leaves(model(*inputs)) if isinstance(leaf, Tensor)]


@each
def test_what_can_be_pruned_and_where_its_samples_lie(case: Family) -> None:
    model, graph = traced(case.name)
    assert {group.id: group.size for group in candidates(model, graph).groups} == case.groups
    assert graph.program.batch_dims == case.batch_dims
    assert graph.program.dynamic


@each
def test_masked_is_shrunk_and_saved_is_loaded(case: Family, tmp_path: Path) -> None:
    model, graph = traced(case.name)
    plan, smaller = pruned(case.name)
    assert all(len(units) < graph.group(id).size for id, units in plan.kept.items())
    others = case.inputs(3, seed=5)
    assert verify(mask(model, graph, plan.kept), smaller, graph, plan.kept, others).relative < 1e-5
    dense, expected = outputs(model, others), outputs(smaller, others)
    assert max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(dense, expected)) > 1e-3
    loaded = load(save(tmp_path / "artefact", smaller, plan, {"case": case.name}, {}), case.model)
    assert all(map(torch.equal, outputs(loaded, others), expected))


@each
def test_one_count(case: Family) -> None:
    model, graph = traced(case.name)
    plan, smaller = pruned(case.name)
    inputs = Inputs.of(case.inputs(2), batch_dims=case.batch_dims)
    assert graph.total_macs() == macs(model, inputs)
    assert graph.total_macs(plan.kept) == macs(smaller, inputs)
    run = macs_of_a_run(model, Inputs.of(case.inputs(1), batch_dims=case.batch_dims))
    if all(d is None for d in case.batch_dims):
        run = macs_of_a_run(model, inputs)  # one graph of that size
    assert run < graph.total_macs() if case.name in MASKED else run == graph.total_macs()


@each
def test_the_line_prunes_and_repairs(case: Family) -> None:
    """Ranked, cut and repaired: closer to the dense network than what was only cut, and within the budget."""
    model, batches = case.model(), [case.inputs(16, seed=s) for s in range(4)]
    budget = sc.Budget(macs=0.92 if case.name in ("vocoder", "modulated") else 0.8)
    plain, repaired = (
        sc.prune(model, case.inputs(2), method=method, budget=budget, calibration=batches, progress=False)
        for method in (sc.SNP(recovery=None), sc.SNP())
    )
    assert repaired.report.after.macs <= budget.value * repaired.report.before.macs
    old, new = (
        sum(
            float((a - b).square().sum())
            for batch in batches
            for a, b in zip(outputs(result.model, batch), outputs(model, batch), strict=True)
        )
        for result in (plain, repaired)
    )
    assert new < 0.99 * old
