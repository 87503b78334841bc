"""Laws 1 and 2, and the whole line, over one small module for each unusual operator."""

from functools import cache
from pathlib import Path

import pytest
import torch
from models import random_selection
from torch import nn
from unusual import UNUSUAL, Unusual

import secateur as sc
from secateur.artefact import load, save
from secateur.graph import Graph, trace
from secateur.surgery import apply, make_plan, mask, verify

CASES = {case.name: case for case in UNUSUAL}


@cache
def traced(name: str) -> tuple[nn.Module, Graph]:
    case = CASES[name]
    model = case.model()
    return model, trace(model, case.inputs())


each = pytest.mark.parametrize("case", UNUSUAL, ids=lambda case: case.name)


@each
def test_groups(case: Unusual) -> None:
    _, graph = traced(case.name)
    assert {group.id: group.size for group in graph.groups} == case.groups


@pytest.mark.parametrize("seed", [0, 1])
@each
def test_masked_is_shrunk_and_saved_is_loaded(case: Unusual, seed: int, tmp_path: Path) -> None:
    model, graph = traced(case.name)
    kept = random_selection(graph, 0.35, seed)
    assert all(len(kept[group.id]) < group.size for group in graph.groups)
    plan = make_plan(model, graph, kept)
    smaller, x = apply(model, plan), case.inputs(batch=3, seed=5)
    assert verify(mask(model, graph, kept), smaller, graph, kept, (x,)).relative < 1e-5
    assert sum(p.numel() for p in smaller.parameters()) == graph.params(kept)
    loaded = load(save(tmp_path / "artefact", smaller, plan, {"case": case.name}, {}), case.make)
    with torch.no_grad():
        dense, expected = model(x), smaller(x)
        assert torch.equal(loaded(x), expected)
    assert float((dense - expected).abs().max() / dense.abs().max()) > 1e-3


@each
def test_the_line_prunes_and_repairs(case: Unusual) -> None:
    """Ranked, cut and repaired: closer to the dense network than what was only cut."""
    model, x = case.model(), case.inputs(64, seed=3)
    budget = sc.Budget(macs=0.8)
    plain, repaired = (
        sc.prune(model, x[:2], method=method, budget=budget, calibration=x.split(16), progress=False)
        for method in (sc.SNP(recovery=None), sc.SNP())
    )
    assert case.whole <= set(repaired.report.refused)
    assert repaired.report.after.macs <= 0.8 * repaired.report.before.macs
    with torch.no_grad():
        dense = model(x)
        old, new = (float((result.model(x) - dense).square().mean()) for result in (plain, repaired))
    assert new < 0.98 * old
