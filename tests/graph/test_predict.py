"""Predictions against networks that were really made smaller, and against torch's own counter."""

from __future__ import annotations

import copy
from math import prod

import numpy as np
import pytest
import torch
from models import SMALL, TORCHVISION, Case
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.graph import Graph, Kept, trace
from secateur.ground.errors import SurgeryError
from secateur.measure import macs


def select(graph: Graph, seed: int, share: float = 0.6) -> Kept:
    """A random selection that leaves something of every group and segment."""
    rng = np.random.default_rng(seed)
    kept = {}
    for group in graph.groups:
        chosen = set(rng.permutation(group.size)[: max(1, round(share * group.size))].tolist())
        for segment in group.segments:
            if not chosen & segment.units:
                chosen.add(min(segment.units))
        kept[group.id] = tuple(sorted(chosen))
    return kept


def shrink(model: nn.Module, graph: Graph, kept: Kept) -> nn.Module:
    """Cut parameters and buffers by hand; the only attribute that matters here is `groups`."""
    small = copy.deepcopy(model)
    for names in set(graph.program.parameters.values()):
        module, _, leaf = names[0].rpartition(".")
        tensor = getattr(small.get_submodule(module), leaf)
        cut = tensor.detach()
        for dim in range(cut.ndim):
            cut = cut.index_select(dim, torch.from_numpy(graph.surviving(names[0], dim, kept)))
        cut = nn.Parameter(cut) if isinstance(tensor, nn.Parameter) else cut
        for name in names:
            module, _, leaf = name.rpartition(".")
            setattr(small.get_submodule(module), leaf, cut)
    sizes = graph.sizes(kept)
    for layer in graph.layers:
        if layer.groups > 1:
            read = sizes[layer.value][layer.channel_dim]
            width = graph.shapes(kept)[layer.weight][1]
            small.get_submodule(layer.module).groups = read // width
    return small


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.name)
def test_sizes_costs_and_counts_are_those_of_the_smaller_network(case: Case, seed: int) -> None:
    model = case.model()
    graph = trace(model, case.inputs())
    kept = select(graph, seed)
    smaller = trace(shrink(model, graph, kept), case.inputs())
    predicted, real = graph.sizes(kept), smaller.sizes()
    assert graph.elements(kept) == {name: prod(shape) for name, shape in predicted.items()}
    assert predicted == real
    assert graph.macs(kept) == smaller.macs()
    assert graph.shapes(kept) == smaller.program.shapes
    assert (
        graph.params(kept)
        == smaller.params()
        == sum(p.numel() for p in shrink(model, graph, kept).parameters())
    )
    assert graph.total_macs(kept) < graph.total_macs()


@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.name)
def test_masked_equals_shrunk(case: Case) -> None:
    model = case.model()
    graph = trace(model, case.inputs())
    kept = select(graph, 3)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for site in (s for g in graph.groups for s in g.consumers):
            weight = masked.get_parameter(site.parameter)
            gone = np.setdiff1d(
                np.arange(weight.shape[site.dim]), graph.surviving(site.parameter, site.dim, kept)
            )
            weight.index_fill_(site.dim, torch.from_numpy(gone), 0)
    x = case.inputs(4, seed=5)
    with torch.no_grad():
        dense, expected, got = model(x), masked(x), shrink(model, graph, kept)(x)
    assert not torch.allclose(expected, dense, rtol=1e-3)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121"])
def test_costs_equal_those_of_torch(name: str) -> None:
    model = next(c for c in TORCHVISION if c.name == name).make().eval()
    x = torch.zeros(2, 3, 64, 64)
    graph = trace(model, x)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(x)
    assert graph.total_macs() * 2 * 2 == counter.get_total_flops()
    assert graph.params() == sum(p.numel() for p in model.parameters())


class Attention(nn.Module):
    """Heads written out in several ways, after a projection of queries, keys and values in one."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.qkv, self.out = nn.Linear(6, 3 * 12), nn.Linear(12, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, 3).permute(2, 0, 3, 1, 4).unbind(0)
        if self.how == "sdpa":
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        elif self.how == "matmul":
            y = ((q @ k.transpose(-2, -1)) * 0.5).softmax(-1) @ v
        elif self.how == "einsum":
            weights = torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1)
            y = torch.einsum("bhij,bhjd->bhid", weights, v)
        else:
            weights = torch.einsum("... i d, ... j d -> ... i j", q, k).softmax(-1)
            y = torch.einsum("...ij,...jd->...id", weights, v)
        return self.out(y.transpose(1, 2).reshape(b, n, -1))


@pytest.mark.parametrize("how", ["sdpa", "matmul", "einsum", "ellipsis"])
def test_heads_are_units(how: str) -> None:
    model, x = Attention(how).eval(), torch.zeros(2, 5, 6)
    graph = trace(model, x)
    (group,) = graph.groups
    assert (group.kind, group.size) == ("head", 4)
    assert group.owner("qkv.weight", 0) == tuple(i // 3 for i in range(12)) * 3
    assert group.owner("out.weight", 1) == tuple(i // 3 for i in range(12))
    assert graph.total_macs() == macs(model, (x,))
    half = graph.total_macs({group.id: (0, 3)})
    assert half * 2 == graph.total_macs()


class Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        b, c, h, w = y.shape
        return self.last(y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w))


def test_a_channel_shuffle_keeps_full_grids() -> None:
    graph = trace(Shuffle(), torch.zeros(2, 3, 4, 4))
    (group,) = graph.groups
    assert group.size == 4
    assert group.owner("first.weight", 0) == (0, 1, 2, 3) * 2
    assert group.owner("last.weight", 1) == (0, 0, 1, 1, 2, 2, 3, 3)
    view = next(n.name for n in graph.program.nodes if n.op == "view")
    assert graph.sizes({group.id: (1, 2, 3)})[view] == (2, 2, 3, 4, 4)


def test_a_selection_that_leaves_no_grid_is_refused() -> None:
    graph = trace(Shuffle(), torch.zeros(2, 3, 4, 4))
    view = graph._analysis.values[next(n.name for n in graph.program.nodes if n.op == "view")]
    units = graph._units
    from secateur.graph.predict import predict_shape

    alive = np.ones(len(units.number) + 1, dtype=bool)
    loose = type(units)(np.arange(len(units.number)), {}, len(units.number))
    alive[int(np.asarray(view.fields[0]).flat[0])] = False
    with pytest.raises(SurgeryError, match="do not form a full grid"):
        predict_shape("view", view, loose, alive)


def test_costs_are_a_function_of_the_selection_alone() -> None:
    graph = trace(SMALL[3].make(), SMALL[3].inputs())
    first = graph.total_macs()
    kept = select(graph, 0)
    small = graph.total_macs(kept)
    assert graph.total_macs(kept) == small < first == graph.total_macs()
