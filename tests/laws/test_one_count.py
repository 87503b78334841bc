"""Law 10: one counter. What is predicted is what the finished model has, and what torch's own counter says of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from any_model import ANY, AnyModel
from models import OPERATORS, SMALL, TORCHVISION, Case, random_selection
from torch import Tensor, nn
from unusual import UNUSUAL

from secateur.graph import trace
from secateur.graph.macs import COUNTED
from secateur.ground.inputs import Inputs
from secateur.measure import macs
from secateur.measure.count import macs_of_a_run
from secateur.surgery import apply, make_plan
from secateur.surgery.candidates import candidates

QUICK = ("resnet18", "efficientnet_b0", "shufflenet_v2_x0_5", "mobilenet_v3_small", "convnext_tiny")
CASES = (*SMALL, *UNUSUAL, *(c for c in (*OPERATORS, *TORCHVISION) if c.name in QUICK))


def check(model: nn.Module, one: Inputs, two: Inputs, whole: bool = True) -> None:
    """Count the dense and a pruned model in every way; `one` holds one sample, `two` are traced.

    Unless it goes through the `whole` of it: a run then takes what a mask chooses, a trace all that it could.
    """
    graph = trace(model, *two.args, **two.kwargs)
    assert graph.program.dynamic
    assert graph.total_macs() == macs(model, one) == macs(model, two)
    run = macs_of_a_run(model, one)
    assert run == graph.total_macs() if whole else run < graph.total_macs()
    chosen = {group.id for group in candidates(model, graph).groups}
    kept = {id: units for id, units in random_selection(graph, 0.35, 0).items() if id in chosen}
    smaller = apply(model, make_plan(model, graph, kept))
    assert graph.total_macs(kept) == macs(smaller, two)
    assert not whole or graph.total_macs(kept) == macs_of_a_run(smaller, one)
    assert graph.total_macs(kept) < graph.total_macs()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_predicted_traced_and_run_agree(case: Case) -> None:
    check(case.model(), Inputs.of(case.inputs(1)), Inputs.of(case.inputs(2)), whole=case.name != "chosen")


@pytest.mark.parametrize("case", ANY, ids=lambda case: case.name)
def test_predicted_traced_and_run_agree_on_transformers(case: AnyModel) -> None:
    check(case.model(), Inputs.of(case.batch(1)), Inputs.of(case.batch(2)))


class Around(nn.Module):
    """Something that multiplies, between layers that can be pruned: (N, 5, 6) in, whatever it makes out."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(6, 24), nn.Linear(24, 4), between

    def forward(self, x: Tensor) -> Any:
        return self.between(self.b(torch.relu(self.a(x))))


class Call(nn.Module):
    """A function of (N, 5, 4) and of a weight (4, 4, 3)."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.randn(4, 4, 3)), function

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self.weight)


MULTIPLY: Mapping[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(4, 6, 2, batch_first=True, proj_size=3, bidirectional=True),
    "gru": lambda: nn.GRU(4, 6, 2, batch_first=True, bias=False),
    "rnn_tanh": lambda: nn.RNN(4, 6, batch_first=True),
    "rnn_relu": lambda: nn.RNN(4, 6, batch_first=True, nonlinearity="relu"),
    "lstm_cell": lambda: Cell(nn.LSTMCell(4, 6)),
    "gru_cell": lambda: Cell(nn.GRUCell(4, 6)),
    "rnn_tanh_cell": lambda: Cell(nn.RNNCell(4, 6)),
    "rnn_relu_cell": lambda: Cell(nn.RNNCell(4, 6, nonlinearity="relu")),
    "bilinear": lambda: Twice(nn.Bilinear(4, 4, 3)),
    "tensordot": lambda: Call(lambda x, w: torch.tensordot(x, w, dims=1)),
    "tensordot over two": lambda: Call(lambda x, w: torch.tensordot(x[:, :4], w, dims=([1, 2], [0, 1]))),
    "inner": lambda: Call(lambda x, w: torch.inner(x, w[:, :, 0])),
    "multi_dot": lambda: Call(lambda x, w: torch.linalg.multi_dot([x[0], w[..., 0], w[..., 1]])),
    "chain_matmul": lambda: Call(lambda x, w: torch.chain_matmul(x[0], w[..., 0], w[0])),
    "matmul with a vector": lambda: Call(lambda x, w: x @ w[:, 0, 0]),
    "vector with a matrix": lambda: Call(lambda x, w: w[0, :, 0] @ x.mT),
    "dot": lambda: Call(lambda x, w: x.mean() * torch.dot(w[:, 0, 0], w[:, 1, 1])),
    "mv and addmv": lambda: Call(
        lambda x, w: torch.addmv(w[0, :, 0], w[..., 0], torch.mv(w[..., 1], w[0, :, 1])) + x
    ),
    "addbmm": lambda: Call(lambda x, w: torch.addbmm(w[0, 0, 0], x, x.mT)),
    "baddbmm": lambda: Call(lambda x, w: torch.baddbmm(w[0, 0, 0], x, x.mT)),
    "cdist": lambda: Call(lambda x, w: torch.cdist(x, w[..., 0])),
    "einsum of three": lambda: Call(lambda x, w: torch.einsum("nti,ijk,ntj->ntk", x, w, x)),
    "einsum of four": lambda: Call(lambda x, w: torch.einsum("nti,ijk,jl,klm->ntm", x, w, w[0], w[:3, :3])),
    "einsum that only multiplies": lambda: Call(lambda x, w: torch.einsum("nti,ij->ntij", x, w[..., 0])),
    "einsum that sums before": lambda: Call(lambda x, w: torch.einsum("nti,jk->nk", x, w[0])),
    "outer": lambda: Call(lambda x, w: torch.outer(w[0, 0], w[0, 1]) + x.mean()),
    "unbatched convolution": lambda: Call(lambda x, w: nn.functional.conv1d(x[0].T, w)),
    "convolution by its other name": lambda: Call(
        lambda x, w: torch.convolution(x.mT, w, None, [1], [0], [1], False, [0], 1)
    ),
}


class Cell(nn.Module):
    """The first step of a recurrent layer."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Any:
        return self.cell(x[:, 0])


class Twice(nn.Module):
    """A layer of two inputs that gets one twice."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(x, x)


@pytest.mark.parametrize("name", MULTIPLY)
def test_what_cannot_be_pruned_counts_as_well(name: str) -> None:
    torch.manual_seed(0)
    model = Around(MULTIPLY[name]()).eval()
    one, two = Inputs.of(torch.randn(1, 5, 6)), Inputs.of(torch.randn(2, 5, 6))
    check(model, one, two)


def test_every_operator_that_has_a_formula_is_counted_in_one_of_these_tests() -> None:
    seen: set[str] = set()
    for make in MULTIPLY.values():
        torch.manual_seed(0)
        seen |= {node.op for node in trace(Around(make()).eval(), torch.randn(2, 5, 6)).program.nodes}
    elsewhere = {
        *(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)),
        "addmm",
        "mm",
        "bmm",
        "vdot",
    }
    assert COUNTED.keys() - seen - elsewhere == {
        "scaled_dot_product_attention",
        "_grouped_mm",
        "torchvision.deform_conv2d",
    }
