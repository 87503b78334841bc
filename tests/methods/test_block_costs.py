"""Costs of blocks from statistics, against outputs on data."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.blocks import UNIFY, ZERO, Block, BlockPattern
from secateur.graph import trace
from secateur.methods import MicroStructured
from secateur.methods.block_costs import OutputError, WeightError
from secateur.statistics import collect, state_tensors

LAYERS = {
    "linear": (nn.Linear(6, 8), (6,)),
    "convolution": (nn.Conv2d(3, 8, 3), (3, 6, 6)),
    "grouped": (nn.Conv1d(6, 8, 3, groups=2), (6, 9)),
    "depthwise": (nn.Conv1d(8, 8, 3, groups=8), (8, 9)),
    "transposed": (nn.ConvTranspose1d(6, 8, 3, groups=2), (6, 9)),
}


CASES = [
    *((name, Block(4, 1)) for name in LAYERS),
    *((name, Block(2, 2)) for name in ("linear", "convolution", "grouped", "transposed")),
    *((name, Block(1, 3)) for name in ("linear", "convolution", "grouped", "transposed")),
    ("depthwise", Block(4, 1, 3)),
]


@pytest.mark.parametrize(("name", "block"), CASES, ids=str)
def test_the_error_is_that_of_the_outputs_about_their_mean(name: str, block: Block) -> None:
    layer, shape = LAYERS[name]
    torch.manual_seed(0)
    net = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(2)).eval()
    x = torch.randn(40, *shape) + 0.5
    net(x[:2])
    graph = trace(net, x[:2])
    structure = MicroStructured(block, skip=("2",))
    partitions = structure.layers(net).partitions
    tensors = state_tensors(graph.program)
    statistics = collect(graph, (), [x], layers=[graph.layers[0].node], patches=True, positions=10_000)
    costs = OutputError(repaired=False, damping=0.0)(graph, partitions, tensors, statistics)["0.weight"]
    partition = partitions["0.weight"]
    weight = layer.weight.detach()
    with torch.no_grad():
        for i in range(0, partition.count, 5):
            for state, expected in ((ZERO, costs.zero[i]), (UNIFY, costs.unify[i])):
                states = torch.zeros(partition.count, dtype=torch.int8)
                states[i] = state
                moved = BlockPattern(partition, states.view(partition.grid)).project(weight) - weight
                y = torch.func.functional_call(layer, {"weight": moved, "bias": torch.zeros(8)}, (x,))
                y = y.double().flatten(2) if y.ndim > 2 else y.double()[..., None]
                if name != "transposed":  # whose positions at the edges read less
                    power = float(y.var((0, 2), unbiased=False).sum())
                    power = min(power, float(costs.zero[i])) if state == UNIFY else power
                    assert power == pytest.approx(float(expected), rel=2e-3, abs=1e-7)


def test_the_repaired_error_is_the_least_that_other_weights_leave() -> None:
    """Optimal brain surgeon: zero a block, solve the rest of its rows."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(500, 6) @ torch.randn(6, 6)
    graph = trace(net, x[:2])
    partitions = MicroStructured(Block(2, 2), skip=("2",)).layers(net).partitions
    tensors = state_tensors(graph.program)
    statistics = collect(graph, (), [x], layers=[graph.layers[0].node], patches=True)
    costs = OutputError(damping=1e-9)(graph, partitions, tensors, statistics)["0.weight"]
    centred = (x - x.mean(0)).double()
    target = centred @ net[0].weight.detach().double().T
    for i, (rows, columns) in enumerate((r, c) for r in (slice(0, 2), slice(2, 4)) for c in range(3)):
        left = [j for j in range(6) if j // 2 != columns]
        solution = torch.linalg.lstsq(centred[:, left], target[:, rows]).solution
        error = ((target[:, rows] - centred[:, left] @ solution) ** 2).mean(0).sum()
        assert float(error) == pytest.approx(float(costs.zero[i]), rel=1e-4)


def test_without_statistics_weights_decide() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2)).eval()
    graph = trace(net, torch.zeros(2, 6))
    partitions = MicroStructured(Block(4, 1)).layers(net).partitions
    tensors = state_tensors(graph.program)
    a, b = (c(graph, partitions, tensors, None)["0.weight"] for c in (OutputError(), WeightError()))
    assert torch.equal(a.zero, b.zero)
