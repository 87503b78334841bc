"""Which dimension of the inputs counts samples: found where it can be, named where it cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.graph import trace
from secateur.ground.errors import TraceError
from secateur.ground.inputs import Inputs


class Nodes(nn.Module):
    """Nodes (n, 8), edges (2, e): sums over neighbours, and a perceptron for each node."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(8, 24), nn.Linear(24, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = x + torch.zeros_like(x).index_add(0, edges[1], x.index_select(0, edges[0]))
        return self.out(x + self.b(torch.relu(self.a(x))))


class Pooled(Nodes):
    """Nodes (n, 8) of several graphs and the number of each node's graph, which add up to graphs."""

    def forward(self, x: Tensor, graph: Tensor) -> Tensor:
        count = graph.max().item() + 1
        x = x.new_zeros(count, 8).index_add(0, graph, self.b(torch.relu(self.a(x))))
        return self.out(x)


class Adjacency(Nodes):
    """Nodes (n, 8) and a dense adjacency (n, n)."""

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = edges @ x
        return self.out(x + self.b(torch.relu(self.a(x))))


class Encoder(nn.Module):
    """torch's own encoder layer with a mask (time, time), sequence first as it comes, or batch first."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=batch_first)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.out(self.layer(x, src_mask=mask))


class Recurrent(nn.Module):
    """A recurrent layer with or without the batch first, and a state for it."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.layer, self.out = nn.GRU(6, 8, 2, batch_first=batch_first), nn.Linear(8, 3)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        return self.out(self.layer(x, state)[0])


class Loop(nn.Module):
    """A recurrence written out, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.keep, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.shape[1], 8)
        for step in x:
            state = torch.tanh(self.read(step) + self.keep(state))
        return self.out(state)


class Pairs(nn.Module):
    """Queries against prototypes; or against the next one of as many keys."""

    def __init__(self, each: bool) -> None:
        super().__init__()
        self.f, self.each = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 8)), each

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.f(x), self.f(y)
        return (x * y).sum(1) if self.each else -torch.cdist(x, y)


class BesideQueries(nn.Module):
    """A mask of the batch that torch's attention takes without a word on its length, and one for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.out = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q = self.q(x)[:, None]
        return self.out(F.scaled_dot_product_attention(q, q, q, mask[:, None])[:, 0])


def edges(n: int, e: int) -> Tensor:
    return torch.randint(0, n, (2, e), generator=torch.Generator().manual_seed(0))


CASES: dict[str, tuple[nn.Module, tuple[Any, ...], tuple[int | None, ...]]] = {
    "batch first": (nn.Sequential(nn.Linear(8, 8), nn.ReLU()), (torch.zeros(5, 8),), (0,)),
    "tokens, batch first": (nn.Embedding(9, 4), (torch.zeros(2, 6, dtype=torch.long),), (0,)),
    "nodes and edges": (Nodes(), (torch.zeros(10, 8), edges(10, 30)), (None, None)),
    "nodes and a matrix": (Adjacency(), (torch.zeros(10, 8), torch.eye(10)), (None, None)),
    "nodes of graphs": (Pooled(), (torch.zeros(10, 8), torch.arange(10) // 4), (None, None)),
    "encoder, batch first": (Encoder(True), (torch.zeros(3, 7, 16), torch.zeros(7, 7)), (0, None)),
    "encoder, time first": (Encoder(False), (torch.zeros(7, 3, 16), torch.zeros(7, 7)), (1, None)),
    "encoder, as long as the batch": (Encoder(False), (torch.zeros(7, 7, 16), torch.zeros(7, 7)), (1, None)),
    "encoder, one sample": (Encoder(False), (torch.zeros(7, 1, 16), torch.zeros(7, 7)), (1, None)),
    "recurrent, batch first": (Recurrent(True), (torch.zeros(3, 7, 6),), (0,)),
    "recurrent, time first": (Recurrent(False), (torch.zeros(7, 3, 6),), (1,)),
    "recurrent, with a state": (Recurrent(False), (torch.zeros(7, 3, 6), torch.zeros(2, 3, 8)), (1, 1)),
    "recurrent, batch first, with a state": (Recurrent(True), (torch.zeros(3, 7, 6), torch.zeros(2, 3, 8)), (0, 1)),
    "loop over time": (Loop(), (torch.zeros(7, 3, 6),), (1,)),
    "prototypes": (Pairs(False), (torch.zeros(5, 8), torch.zeros(5, 8)), (0, None)),
    "pairs": (Pairs(True), (torch.zeros(5, 8), torch.zeros(5, 8)), (0, 0)),
    "a mask beside queries": (BesideQueries(), (torch.zeros(3, 5, 8), torch.zeros(3, 5, 5)), (0, 0)),
    "a mask for all": (BesideQueries(), (torch.zeros(3, 5, 8), torch.zeros(1, 5, 5)), (0, None)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_batch_is_found(name: str) -> None:
    model, inputs, expected = CASES[name]
    program = trace(model.eval(), *inputs).program
    assert program.batch_dims == expected
    assert program.dynamic
    batch = next((x.shape[d] for x, d in zip(inputs, expected, strict=True) if d is not None), None)
    assert program.batch == (1 if batch is None else max(batch, 2))


def test_without_a_batch_every_size_that_the_code_leaves_is_free() -> None:
    graph = trace(Nodes(), torch.zeros(10, 8), edges(10, 30))
    nodes, ends = graph.program.free
    assert nodes == {0}
    assert 1 in ends
    assert "no batch, a call is one sample" in str(graph)
    assert graph.total_macs() == 10 * (2 * 8 * 24 + 8 * 3)  # of the example
    assert [group.id for group in graph.groups] == ["a"]


@pytest.mark.parametrize(
    ("batch_dims", "expected", "batch"),
    [(0, (0, 0), 4), ((0, None), (0, None), 4), ([0, 0], (0, 0), 4), ((-2, None), (0, None), 4),
     ((), (None, None), 1), ({}, (None, None), 1)],
)  # fmt: skip
def test_the_user_may_name_it(batch_dims: Any, expected: tuple[int | None, ...], batch: int) -> None:
    x = torch.zeros(4, 8)
    graph = trace(Pairs(True), x, x, batch_dims=batch_dims)
    assert graph.program.batch_dims == expected
    assert graph.program.batch == batch
    assert Inputs.of((x, x), batch_dims).batch == batch


def test_names_and_containers() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, batch: dict[str, Tensor], scale: float, *, table: Tensor) -> Tensor:
            return (self.layer(batch["x"]) + batch["y"]) * scale + table

    batch = {"x": torch.zeros(5, 6, 4), "y": torch.zeros(5, 6, 3)}
    given: dict[str, Any] = {"batch": batch, "scale": 2.0, "table": torch.zeros(3)}
    graph = trace(Both(), **given, batch_dims={"batch": 1})
    assert graph.program.batch_dims == (1, 1, None, None)
    assert graph.program.batch == 6
    assert Inputs.of(given, {"batch": 1}).batch == 6


@pytest.mark.parametrize(
    ("batch_dims", "message"),
    [
        ((0, 0, 0), "3 entries for 2 inputs"),
        ((2, 0), r"dimension 2 of input 0 .*shape is \(4, 8\)"),
        ((0, 1), r"different sizes, \[4, 8\]"),
        ({"x": 0}, "'x', which is no keyword input"),
    ],
)
def test_what_does_not_fit_is_refused(batch_dims: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace(Pairs(True), torch.zeros(4, 8), torch.zeros(4, 8), batch_dims=batch_dims)
