"""The small shapes: the same outputs as the masked network's, the same values, and back."""

import pytest
import torch
from models import SMALL, random_selection
from torch import nn

from secateur.graph import trace
from secateur.ground.tensors import floating
from secateur.recovery.jobs import masked
from secateur.recovery.shrunk import Shrunk
from secateur.statistics import Forward, state_tensors
from secateur.surgery import apply, make_plan


@pytest.mark.parametrize("name", [case.name for case in SMALL])
@pytest.mark.parametrize("seed", [0, 1])
def test_small_and_masked_networks_make_the_same(name: str, seed: int) -> None:
    case = next(case for case in SMALL if case.name == name)
    model, x = case.model(), case.inputs(6, seed=3)
    graph = trace(model, x)
    kept = random_selection(graph, 0.3, seed)
    tensors = masked(graph, state_tensors(graph.program), kept)
    shrunk = Shrunk(graph, kept, tensors, [x])
    assert shrunk.is_small == bool(kept)
    small = shrunk.small(tensors)
    expected = floating(Forward(graph.program, tensors).run([x], {}, {}, whole=True))
    found = floating(shrunk.forward(small).run([x], {}, {}, whole=True))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    back = shrunk.full(small, tensors)
    assert all(torch.equal(back[key], value) for key, value in tensors.items())
    smaller = apply(model, make_plan(model, graph, kept))
    for key, value in smaller.named_parameters():
        assert small[key].shape == value.shape


def test_what_cannot_run_small_runs_masked() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval(), torch.randn(4, 4)
    graph = trace(model, x)
    (group,) = graph.groups
    kept = {group.id: (0, 3)}
    tensors = state_tensors(graph.program)
    shrunk = Shrunk(graph, kept, tensors, [x[:, :3]])  # no input of the network: nothing can be compared
    assert not shrunk.is_small
    small = shrunk.small(tensors)
    assert all(small[key] is value for key, value in tensors.items())
    [expected] = floating(Forward(graph.program, masked(graph, tensors, kept)).run([x], {}, {}, whole=True))
    [found] = floating(shrunk.forward(small).run([x], {}, {}, whole=True))
    torch.testing.assert_close(found, expected)
