"""Laws 1 and 2 over transformers of every form and code that repeats sizes, each in both modes."""

import copy
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from any_model import ANY, AnyModel
from models import random_selection
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.artefact import load, save
from secateur.graph import Graph, trace
from secateur.surgery import Plan, Retrace, RewriteCode, apply, make_plan, mask, verify
from secateur.surgery.candidates import candidates

CASES = {case.name: case for case in ANY}
each = pytest.mark.parametrize("case", ANY, ids=lambda case: case.name)


@cache
def traced(name: str) -> tuple[nn.Module, Graph]:
    case = CASES[name]
    model = case.model()
    return model, trace(model, **case.batch(2))


@cache
def pruned(name: str) -> tuple[Plan, nn.Module]:
    model, graph = traced(name)
    chosen = {group.id for group in candidates(model, graph).groups}
    kept = {id: units for id, units in random_selection(graph, 0.35, 0).items() if id in chosen}
    plan = make_plan(model, graph, kept)
    return plan, apply(model, plan)


def outputs(model: nn.Module, inputs: dict[str, Any]) -> list[Tensor]:
    leaves = pytree.tree_leaves(model(**inputs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


@each
def test_masked_is_shrunk(case: AnyModel) -> None:
    model, graph = traced(case.name)
    plan, smaller = pruned(case.name)
    assert len(plan.kept) == case.groups
    assert all(len(units) < graph.group(id).size for id, units in plan.kept.items())
    assert any(isinstance(edit, RewriteCode) for edit in plan.edits) == case.rewritten
    assert not any(isinstance(edit, Retrace) for edit in plan.edits)
    inputs = case.batch(3, seed=5)
    assert verify(mask(model, graph, plan.kept), smaller, graph, plan.kept, (), inputs).relative < 1e-5
    assert isinstance(smaller, type(model))
    assert list(smaller.state_dict()) == list(model.state_dict())
    with torch.no_grad():
        changed = [
            float((a - b).abs().max()) for a, b in zip(outputs(model, inputs), outputs(smaller, inputs))
        ]
    assert max(changed) > 1e-3


@each
def test_saved_is_loaded(case: AnyModel, tmp_path: Path) -> None:
    plan, smaller = pruned(case.name)
    folder = save(tmp_path / "artefact", smaller, plan, {"case": case.name}, {})
    torch.manual_seed(9)
    loaded, inputs = load(folder, case.make), case.batch(1, seed=8)
    with torch.no_grad():
        assert all(map(torch.equal, outputs(loaded, inputs), outputs(smaller, inputs)))


@each
def test_it_trains_and_is_pruned_again(case: AnyModel) -> None:
    _, smaller = pruned(case.name)
    inputs = case.batch(4, seed=2)
    training = copy.deepcopy(smaller).train()
    torch.stack([o.square().mean() for o in outputs(training, inputs)]).sum().backward()
    unused = {n for n, p in case.model().named_parameters() if not p.requires_grad}
    graded = {n for n, p in training.named_parameters() if p.grad is not None and bool(p.grad.any())}
    touched = {name for edit in pruned(case.name)[0].edits if hasattr(edit, "names") for name in edit.names}
    assert touched & {n for n, _ in training.named_parameters()} <= graded | unused
    graph = trace(smaller, **case.batch(2))
    chosen = candidates(smaller, graph).groups
    kept = {group.id: tuple(range(group.size - 1)) for group in chosen if group.size > 2}
    again = apply(smaller, make_plan(smaller, graph, kept))
    assert verify(mask(smaller, graph, kept), again, graph, kept, (), case.batch(3)).relative < 1e-5


@each
def test_it_is_an_ordinary_module(case: AnyModel) -> None:
    """It pickles, and copies: what comes back is of the same class and computes the same."""
    _, smaller = pruned(case.name)
    inputs = case.batch(2, seed=3)
    for back in (pickle.loads(pickle.dumps(smaller)), copy.deepcopy(smaller)):
        assert [type(m) for m in back.modules()] == [type(m) for m in smaller.modules()]
        with torch.no_grad():
            assert all(map(torch.equal, outputs(back, inputs), outputs(smaller, inputs)))


def test_dropout_in_code_that_was_rewritten_follows_the_mode() -> None:
    _, smaller = pruned("cosine")
    x = CASES["cosine"].batch(2)["x"]
    smaller = copy.deepcopy(smaller).eval()
    with torch.no_grad():
        assert torch.equal(smaller(x), smaller(x))
        smaller.train()
        assert not torch.equal(smaller(x), smaller(x))
