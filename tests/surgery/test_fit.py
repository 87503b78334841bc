"""A plan that does not fit, or contradicts itself, is refused before anything of the model is changed."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from models import Residual, randomise
from torch import nn

from secateur.blocks import Block, BlockPattern, Partition
from secateur.graph import trace
from secateur.ground.errors import SurgeryError
from secateur.surgery import (
    Edit,
    Plan,
    RemoveBranch,
    Retrace,
    RewriteCode,
    SetAttribute,
    SliceTensor,
    make_plan,
)
from secateur.surgery.apply import apply_in_place

Change = Callable[[tuple[Edit, ...]], tuple[Edit, ...]]


def slices(edits: tuple[Edit, ...]) -> list[SliceTensor]:
    return [e for e in edits if isinstance(e, SliceTensor)]


def settings(edits: tuple[Edit, ...]) -> list[SetAttribute]:
    return [e for e in edits if isinstance(e, SetAttribute)]


def twice(edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    first = slices(edits)[0]
    return (replace(first, index=(first.size - 1,)), *edits)


def set_twice(edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    return (*edits, settings(edits)[0])


def beyond(edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    first = slices(edits)[0]
    return tuple(replace(e, index=(*first.index, first.size)) if e is first else e for e in edits)


def container(edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    return (RemoveBranch((), (), (slices(edits)[0].names[0].rpartition(".")[0].rpartition(".")[0],)), *edits)


def removed_and_set(edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    return (*settings(edits), RemoveBranch((), (settings(edits)[0].module,), ()))


def removed_and_rewritten(edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    return (RemoveBranch((), ("a1",), ()), RewriteCode("a1", ()))


def removed_in_traced(edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    return (RemoveBranch((), ("a1",), ()), Retrace("", "0", ()))


def removed_twice(edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    return (RemoveBranch((), ("a1",), ()), RemoveBranch((), ("a1",), ()))


def everything(edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    return (RemoveBranch((), (), ("",)),)


def no_layer(edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    return (RemoveBranch((), ("",), ()),)


def planned() -> tuple[nn.Module, Plan]:
    model = randomise(Residual(), 0).eval()
    graph = trace(model, torch.randn(2, 3, 8, 8))
    return model, make_plan(model, graph, {g.id: tuple(range(1, g.size)) for g in graph.groups})


def unchanged(model: nn.Module, plan: Plan, why: str) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shown = repr(model)
    with pytest.raises(SurgeryError, match=why):
        apply_in_place(model, plan)
    assert repr(model) == shown
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (twice, r"changes dimension 0 of \S+ twice"),
        (set_twice, r"changes \S+ twice"),
        (beyond, "indices that are none"),
        (container, "and removes it"),
        (removed_and_set, "and removes it"),
        (removed_and_rewritten, "changes a1 and removes it"),
        (removed_in_traced, "removes a part of it"),
        (removed_twice, "changes a1 twice"),
        (everything, "whole model"),
        (no_layer, "whole model"),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_contradictions(change: Change, why: str) -> None:
    model, plan = planned()
    unchanged(model, replace(plan, edits=change(plan.edits)), why)


def test_values_of_another_shape_and_of_nothing() -> None:
    model, plan = planned()
    name = slices(plan.edits)[0].names[0]
    unchanged(model, replace(plan, tensors={name: torch.zeros(1)}), "the shape")
    unchanged(model, replace(plan, tensors={"nothing": torch.zeros(1)}), "no tensor 'nothing'")


def test_a_pattern_of_another_shape() -> None:
    model, plan = planned()
    partition = Partition(Block(2, 1), (4, 2))
    pattern = BlockPattern(partition, torch.zeros(partition.grid, dtype=torch.int8))
    unchanged(model, replace(plan, patterns={"fc.weight": pattern}), "its pattern of fc.weight")
