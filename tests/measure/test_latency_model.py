"""The latency of a selection from a table of layer times."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import SMALL
from stopwatches import Analytic
from torch import Tensor, nn

from secateur.graph import Graph, trace
from secateur.measure import LatencyModel, latency_model
from secateur.measure.latency_model import Grid
from secateur.surgery import apply, make_plan
from secateur.zoo.models import resnet20

NAMES = [case.name for case in SMALL]


def built(name: str, timer: Analytic, batch: int = 2) -> tuple[nn.Module, Graph, LatencyModel, Tensor]:
    case = next(case for case in SMALL if case.name == name)
    model, x = case.model(), case.inputs(batch)
    graph = trace(model, x)
    return model, graph, latency_model(model, graph, graph.groups, (x,), timer), x


def halves(graph: Graph, share: float = 0.5) -> dict[str, tuple[int, ...]]:
    return {g.id: tuple(range(max(1, int(share * g.size)))) for g in graph.groups}


@pytest.mark.parametrize("start", [0.0, 5.0])
@pytest.mark.parametrize("name", NAMES)
def test_the_dense_model_takes_what_was_measured(name: str, start: float) -> None:
    timer = Analytic(start=start, stretch=0.5)
    model, graph, cost, x = built(name, timer)
    assert cost(graph, {}) == pytest.approx(timer.models([model], (x,))[0])
    assert cost.overhead >= 0
    assert 0 < cost.scale <= 1


@pytest.mark.parametrize("name", NAMES)
def test_removing_units_never_takes_longer(name: str) -> None:
    _, graph, cost, _ = built(name, Analytic())
    before = cost(graph, {})
    for share in (0.9, 0.7, 0.5, 0.3, 0.1):
        now = cost(graph, halves(graph, share))
        assert cost.overhead <= now <= before
        before = now
    if graph.groups:
        assert before < cost(graph, {})


class Lines(Analytic):
    """Times that are straight lines in each width, which a table of widths knows exactly."""

    def _operation(self, o: Any) -> float:
        if o.op not in ("conv2d", "linear"):
            return 1e-9 * float(o.rows)
        return 1e-5 * float(o.rows * o.inputs * o.outputs / o.groups)

    def _model(self, model: nn.Module, inputs: Any) -> float:
        return self.start


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", ["residual", "vgg16_bn", "depthwise", "perceptron", "flattened"])
def test_where_times_are_lines_the_table_is_exact(name: str, batch: int) -> None:
    """The smaller model's own layers, timed, take what the table of the dense one said."""
    timer = Lines(start=1e6)
    model, graph, cost, x = built(name, timer, batch)
    kept = halves(graph)
    smaller = apply(model, make_plan(model, graph, kept))
    own = trace(smaller, x)
    again = latency_model(smaller, own, (), (x,), timer)
    assert cost(graph, kept) - cost.overhead == pytest.approx(again(own, {}) - again.overhead, rel=1e-6)


def test_only_widths_that_can_change_are_timed() -> None:
    timer = Analytic()
    model = resnet20(width=0.5).eval()
    x = torch.zeros(1, 3, 16, 16)
    graph = trace(model, x)
    latency_model(model, graph, graph.groups[1:2], (x,), timer)
    asked = {o for o in timer.asked if o.kernel}
    assert {o.rows for o in asked} == {1}  # the batch of the inputs, not the two that were traced
    (group,) = graph.groups[1:2]
    producers, consumers = ({s.parameter for s in sites} for sites in (group.producers, group.consumers))
    narrow = {o.outputs for o in asked if o.inputs == 8 and o.size == (16, 16) and o.stride == (1, 1)}
    assert producers == {"layer1.0.conv1.weight"}
    assert consumers == {"layer1.0.conv2.weight"}
    assert narrow == set(range(1, 9))
    assert {(o.inputs, o.outputs) for o in asked if o.size == (4, 4)} == {(32, 32)}


def test_layers_of_removed_branches_take_no_time() -> None:
    timer = Lines(start=1e6)
    _, graph, cost, _ = built("residual", timer)
    group = next(g for g in graph.groups if g.removable)
    alone = cost(graph, {group.id: ()})
    one = cost(graph, {group.id: (0,)})
    assert alone < one < cost(graph, {})


def test_products_of_activations_are_charged_by_their_macs() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (f(x).reshape(-1, 5, 4, 2).transpose(1, 2) for f in (self.q, self.k, self.v))
            y = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.out(y.transpose(1, 2).reshape(-1, 5, 8))

    model, x = Attention().eval(), torch.zeros(2, 5, 8)
    graph = trace(model, x)
    cost = latency_model(model, graph, graph.groups, (x,), Lines(start=10.0))
    (product,) = cost.products
    layers = sum(n for name, n in graph.macs().items() if name != product)
    layer_ms = 4 * 1e-5 * 10 * 8 * 8
    expected = layer_ms * (1 + graph.macs()[product] / layers)  # all other calls move nothing
    assert cost(graph, {}) - cost.overhead == pytest.approx(expected)


@given(st.lists(st.lists(st.floats(0, 10), min_size=3, max_size=3), min_size=2, max_size=2),
       st.floats(0, 12), st.floats(0, 12), st.floats(0, 30), st.floats(0, 30))  # fmt: skip
def test_a_grid_rises_and_passes_through_its_points(
    ms: list[list[float]], a: float, b: float, c: float, d: float
) -> None:
    grid = Grid.of([1, 8], [1, 10, 20], ms)
    assert grid(min(a, b), min(c, d)) <= grid(max(a, b), max(c, d)) + 1e-12
    assert grid(8, 10) == np.array(ms)[:, :2].max()
    assert grid(1, 1) == grid(0.5, 0) == ms[0][0]
    assert grid(100, 100) == np.array(ms).max()
