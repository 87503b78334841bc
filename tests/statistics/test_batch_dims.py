"""Statistics of inputs whose batch does not come first, or that have none: the same as of those where it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.graph import Graph, trace
from secateur.ground.errors import CalibrationError
from secateur.ground.inputs import Inputs, plain
from secateur.statistics import Calibration, collect, random_projection
from secateur.statistics.activity import activity
from secateur.statistics.gradients import gate_gradients


class Encoder(nn.Module):
    """torch's own encoder layer in either order, with a mask (time, time)."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=batch_first)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.out(self.layer(x, src_mask=mask))


class Nodes(nn.Module):
    """Nodes (n, 6), edges (2, e): sums over neighbours, and a perceptron for each node."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 24), nn.Linear(24, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = x + torch.zeros_like(x).index_add(0, edges[1], x.index_select(0, edges[0]))
        return self.out(x + self.b(torch.relu(self.a(x))))


def graph_batches() -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(0)
    sizes = [(10, 30), (7, 12), (20, 41), (10, 30), (13, 9), (8, 8)]
    return [(torch.randn(n, 6, generator=rng), torch.randint(0, n, (2, e), generator=rng)) for n, e in sizes]


@pytest.fixture(scope="module")
def orders() -> tuple[tuple[Graph, list[Any]], tuple[Graph, list[Any]]]:
    """One encoder and the same sequences in both orders; a mask whose -inf nobody may look past."""
    torch.manual_seed(0)
    first = Encoder(True).double().eval()
    second = Encoder(False).double().eval()
    second.load_state_dict(first.state_dict())
    mask = nn.Transformer.generate_square_subsequent_mask(5).double()
    x = torch.randn(24, 5, 8, dtype=torch.float64)
    batches = [(part, mask) for part in x.split(10)]
    turned = [(part.transpose(0, 1).contiguous(), m) for part, m in batches]
    return (trace(first, *batches[0]), batches), (trace(second, *turned[0]), turned)


def test_moments_are_the_same_in_either_order(orders: Any) -> None:
    (a, batches), (b, turned) = orders
    assert (a.program.batch_dims, b.program.batch_dims) == ((0, None), (1, None))
    found, other = collect(a, a.groups, batches), collect(b, b.groups, turned)
    assert found.samples == other.samples == 24
    ours = [layer.node for layer in a.layers if layer.node in found.sites]
    theirs = [layer.node for layer in b.layers if layer.node in other.sites]
    assert len(ours) == len(theirs) > 1
    for mine, yours in zip(ours, theirs, strict=True):
        for name in ("gram", "mean", "fit", "held"):  # the same samples are held out
            torch.testing.assert_close(
                getattr(found.sites[mine], name), getattr(other.sites[yours], name), rtol=1e-9, atol=1e-12
            )


def test_held_out_samples_come_apart_where_the_batch_is_second(orders: Any) -> None:
    (a, batches), (b, turned) = orders
    (flat, held), *_ = Calibration(batches, a.program).held_out()
    (rest, no), (kept, yes), *_ = Calibration(turned, b.program).held_out()
    assert (no.tolist(), yes.tolist()) == ([False], [True])
    assert torch.equal(kept[0], flat[0][held].transpose(0, 1))
    assert torch.equal(rest[0], flat[0][~held].transpose(0, 1))
    assert kept[1] is flat[1]  # the mask is no batch


def test_pruned_in_either_order_they_are_one_network(orders: Any) -> None:
    models = []
    for graph, batches in orders:
        model = Encoder(graph.program.batch_dims[0] == 0).double().eval()
        model.load_state_dict(graph.program.exported.state_dict)
        result = sc.prune(
            model,
            batches[0],
            method=sc.SNP(),
            budget=sc.Budget(macs=0.8),
            calibration=batches,
            progress=False,
        )
        models.append(result.model)
    (x, mask), (y, _) = orders[0][1][0], orders[1][1][0]
    with torch.no_grad():
        torch.testing.assert_close(
            models[0](x, mask), models[1](y, mask).transpose(0, 1), rtol=1e-6, atol=1e-9
        )


def test_a_graph_is_one_sample_whatever_its_size() -> None:
    torch.manual_seed(0)
    model, batches = Nodes().double().eval(), [(x.double(), e) for x, e in graph_batches()]
    graph = trace(model, *batches[0])
    found = collect(graph, graph.groups, batches)
    assert found.samples == len(batches)
    (group,) = graph.groups
    rows = []
    with torch.no_grad():
        for x, edges in batches:
            x = x + torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
            rows.append(torch.relu(model.a(x)))
    read = torch.cat(rows)
    torch.testing.assert_close(found.sites[group.consumers[0].node].gram, read.T @ read / len(read))
    assert activity(graph, graph.layers, found.tensors, batches).samples == len(batches)
    assert bool((gate_gradients(graph, graph.groups, batches, random_projection)["a"] > 0).any())


def test_graphs_are_pruned_as_wholes() -> None:
    torch.manual_seed(0)
    model, batches = Nodes().eval(), graph_batches()
    plain_cut, repaired = (
        sc.prune(model, batches[0], method=m, budget=sc.Budget(macs=0.7), calibration=batches, progress=False)
        for m in (sc.SNP(recovery=None), sc.SNP())
    )
    assert repaired.report.after.macs <= 0.7 * repaired.report.before.macs
    with torch.no_grad():
        old, new = (
            sum(float((r.model(*b) - model(*b)).square().sum()) for b in batches)
            for r in (plain_cut, repaired)
        )
    assert new < 0.98 * old


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f, self.out = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.out(torch.relu(self.f(x) + self.f(y)))


def test_inputs_of_different_numbers_of_samples_are_refused() -> None:
    program = trace(Pair(), torch.zeros(4, 3), torch.zeros(4, 3)).program
    with pytest.raises(CalibrationError, match=r"different numbers of samples, \[5, 6\].*batch_dims"):
        list(Calibration([(torch.zeros(5, 3), torch.zeros(6, 3))], program))
    (flat,) = Calibration([(torch.zeros(5, 3), torch.zeros(1, 3))], program)  # broadcasts
    taken = Calibration([], program).take(flat, torch.tensor([1, 2]))
    assert [tuple(x.shape) for x in taken] == [(2, 3), (1, 3)]


def test_named_inputs_without_a_batch_stay_whole() -> None:
    x = torch.zeros(4, 3)
    program = trace(Pair(), x, x, batch_dims=(0, None)).program
    calibration = Calibration([(torch.rand(4, 3), x)], program)
    (flat,) = calibration
    assert calibration.take(flat, torch.tensor([True, False, False, False]))[1] is x


def test_what_is_not_known_to_be_samples_is_not_reordered() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x))).reshape(3, 2)

    graph, x = trace(Fixed(), torch.zeros(3, 4)), torch.randn(9, 4)
    batches = list(Calibration([x], graph.program).held_out())
    assert torch.equal(torch.cat([flat[0] for flat, _ in batches]), x)
    assert all(len(held) == 1 for _, held in batches)
    assert collect(graph, graph.groups, [x]).samples == 9


class Image(Tensor):
    """A tensor with a name, as fastai's."""


def test_tensors_with_a_name_are_plain_ones() -> None:
    x = torch.rand(4, 3).as_subclass(Image)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    graph = trace(model, x)
    (flat,) = Calibration([(x, torch.zeros(4))], graph.program)
    assert type(flat[0]) is Tensor
    assert plain(model) is model
    assert Inputs.of(x).batch == 4
    assert collect(graph, graph.groups, [x]).samples == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_mask_is_refused_nevertheless(bad: float) -> None:
    program = trace(nn.Linear(3, 2), torch.zeros(2, 3)).program
    with pytest.raises(CalibrationError, match="not finite"):
        list(Calibration([torch.tensor([[1.0, bad, 1.0]])], program))
    list(Calibration([torch.tensor([[1.0, float("-inf"), 1.0]])], program))
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    graph = trace(model, torch.zeros(2, 3))
    with pytest.raises(CalibrationError, match=r"that 2 reads are not finite"):
        collect(graph, graph.groups, [torch.full((4, 3), float("-inf"))])
