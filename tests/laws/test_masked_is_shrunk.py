"""Law 1: the smaller model gives the outputs of the dense one with the removed units zeroed where they are read."""

from functools import cache

import pytest
import torch
from models import SMALL, TORCHVISION, Case, random_selection
from torch import Tensor, nn

from secateur.graph import Graph, trace
from secateur.graph.groups import Kept
from secateur.surgery import apply, make_plan, mask, verify

CASES = {case.name: case for case in (*SMALL, *TORCHVISION)}
WITH_BRANCHES = ["mixer", "mobilenet_v2", "residual", "resnet18", "resnet20", "resnet50", "resnext50_32x4d"]


@cache
def traced(name: str) -> tuple[nn.Module, Graph]:
    case = CASES[name]
    model = case.model()
    return model, trace(model, case.inputs())


def check(name: str, kept: Kept, tolerance: float = 1e-5) -> nn.Module:
    """Check the law for one selection; other inputs and another batch size than those that were traced."""
    case = CASES[name]
    model, graph = traced(name)
    smaller = apply(model, make_plan(model, graph, kept))
    masked = mask(model, graph, kept)
    x = case.inputs(batch=3, seed=5)
    assert verify(masked, smaller, graph, kept, (x,)).relative < tolerance
    # Without this the law would hold for a model that pruning does not change.
    with torch.no_grad():
        dense, pruned = model(x), smaller(x)
    assert difference(dense, pruned) > 1e-3
    return smaller


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_dropping_units_of_every_group(case: Case, seed: int) -> None:
    _, graph = traced(case.name)
    kept = random_selection(graph, 0.35, seed)
    assert graph.groups
    assert all(len(kept[group.id]) < group.size for group in graph.groups)
    smaller = check(case.name, kept)
    assert sum(p.numel() for p in smaller.parameters()) < 0.9 * graph.params()


@pytest.mark.parametrize("case", TORCHVISION, ids=lambda case: case.name)
def test_dropping_units_of_every_group_of_torchvision_models(case: Case) -> None:
    _, graph = traced(case.name)
    kept = random_selection(graph, 0.35, 0)
    assert all(len(kept[group.id]) < group.size for group in graph.groups)
    smaller = check(case.name, kept)
    assert sum(p.numel() for p in smaller.parameters()) == graph.params(kept) < 0.6 * graph.params()


@pytest.mark.parametrize("name", WITH_BRANCHES)
def test_removing_every_residual_branch_that_can_go(name: str) -> None:
    _, graph = traced(name)
    branches = frozenset(group.id for group in graph.groups if group.removable)
    assert branches
    kept = random_selection(graph, 0.3, 1, empty=branches)
    smaller = check(name, kept)
    assert not any(f"{name}.weight" in smaller.state_dict() for name in branches)


@pytest.mark.parametrize("name", ["residual", "resnet18"])
def test_removing_one_residual_branch_after_another(name: str) -> None:
    _, graph = traced(name)
    for group in [group for group in graph.groups if group.removable][:3]:
        check(name, {group.id: ()})


def test_a_smaller_model_can_be_pruned_again() -> None:
    model, graph = traced("resnet20")
    branches = frozenset([next(group.id for group in graph.groups if group.removable)])
    smaller = apply(model, make_plan(model, graph, random_selection(graph, 0.3, 0, empty=branches)))
    x = CASES["resnet20"].inputs()
    again = trace(smaller, x)
    kept = random_selection(again, 0.3, 1)
    smallest = apply(smaller, make_plan(smaller, again, kept))
    assert verify(mask(smaller, again, kept), smallest, again, kept, (x,)).relative < 1e-5


def test_the_smaller_model_trains_like_any_other() -> None:
    model, graph = traced("residual")
    branches = frozenset(group.id for group in graph.groups if group.removable)
    for empty in (frozenset[str](), branches):
        smaller = apply(model, make_plan(model, graph, random_selection(graph, 0.3, 0, empty=empty))).train()
        smaller(CASES["residual"].inputs(4)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in smaller.parameters())
