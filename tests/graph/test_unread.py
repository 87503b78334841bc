"""The backward sweep, against removing one unit after another by hand."""

import pytest
import torch
from models import SMALL, Case
from torch import nn

from secateur.graph import trace
from secateur.graph.unread import sweep, unread


def test_a_chain_of_layers_falls_with_its_last_connection() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2))
    graph = trace(model, torch.ones(1, 3))
    alive = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    alive["2.weight"][1, :3] = False  # the second hidden unit reads only the last of the first layer
    alive["2.weight"][0, 3] = False
    alive["4.weight"][:, 1] = False
    left = sweep(graph, alive)
    assert left["2.weight"].tolist() == [[True, True, True, False], [False] * 4]
    assert left["2.bias"].tolist() == [True, False]
    assert left["0.weight"].any(1).tolist() == [True, True, True, False]
    assert left["0.bias"].tolist() == [True, True, True, False]
    assert bool(alive["0.weight"].all())  # the given ones stay as they are


def test_parameters_that_are_not_named_count_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    graph = trace(model, torch.ones(1, 3))
    alive = {"0.weight": torch.zeros(4, 3, dtype=torch.bool)}
    assert not bool(unread(graph, graph.groups[0], alive).any())
    assert sweep(graph, alive).keys() == alive.keys()


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_what_goes_changes_no_output(case: Case) -> None:
    model, x = case.model().double(), case.inputs(3).double()
    graph = trace(model, x)
    rng = torch.Generator().manual_seed(0)
    alive = {n: torch.rand(p.shape, generator=rng) < 0.5 for n, p in model.named_parameters() if p.ndim > 1}
    for group in graph.groups:  # some units lose every reader
        for site in group.consumers:
            if site.parameter in alive:
                owner = torch.tensor(group.owner(site.parameter, site.dim))
                alive[site.parameter].index_fill_(site.dim, (owner == 0).nonzero().flatten(), False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in alive:
                parameter.mul_(alive[name])
    everything = {name: p != 0 for name, p in model.named_parameters()}
    left = sweep(graph, everything)
    with torch.no_grad():
        before = model(x)
        for name, parameter in model.named_parameters():
            parameter.mul_(left[name])
        torch.testing.assert_close(model(x), before)
    gone = sum(int(everything[n].sum() - left[n].sum()) for n in left)
    assert gone > 0
    assert all(torch.equal(v, left[n]) for n, v in sweep(graph, left).items())  # a fixed point
