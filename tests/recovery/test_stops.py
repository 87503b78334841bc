"""Where batches wait while layers are solved, and that this is what one sweep a layer does."""

from functools import cache
from typing import Any

import pytest
import torch
from any_model import ANY
from models import SMALL, random_selection
from torch import Tensor, nn

from secateur.graph import Graph, Kept, trace
from secateur.recovery import Sequential
from secateur.recovery.jobs import jobs
from secateur.recovery.schedule import _levels
from secateur.recovery.stops import _Order, find_stops
from secateur.statistics import collect
from secateur.surgery.candidates import candidates


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(24, 10), nn.Linear(10, 24)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.inner(x).tanh())


NAMES = [
    "resnet20",
    "vgg16_bn",
    "residual",
    "depthwise",
    "dense",
    "mixer",
    "perceptron",
    "flattened",
    "grouped",
]
WHOLE = Sequential(positions=10_000, batch_norm=False)


@cache
def prepared(name: str) -> tuple[Graph, Kept, tuple[Any, ...]]:
    """A traced model, a selection inside of its blocks, and three batches."""
    small = {case.name: case for case in SMALL}
    if name in small:
        case = small[name]
        model, batches = case.model(), case.inputs(24, seed=3).split(8)
        graph = trace(model, batches[0][:2])
    else:
        other = next(case for case in ANY if case.name == name)
        model, batches = other.model(), tuple(other.batch(8, seed) for seed in range(3))
        graph = trace(model, **other.batch(2))
    chosen = {group.id for group in candidates(model, graph).groups}
    kept = {id: units for id, units in random_selection(graph, 0.5, 0).items() if id in chosen}
    return graph, kept, batches


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_once_and_behind_those_that_feed_it(name: str) -> None:
    graph, kept, _ = prepared(name)
    work = jobs(graph, kept, producers=True, residual=True)
    stops = find_stops(graph, work, 24, 1000, 1 << 30)
    assert stops is not None
    solved = [job.layer.node for stop in stops for job in stop.jobs]
    assert sorted(solved) == sorted(job.layer.node for job in work)
    order, levels = _Order(graph), _levels(graph, work)
    places = [order.place(stop.before) for stop in stops]
    assert places == sorted(places)
    for stop in stops:
        assert len({levels[job.layer.node] for job in stop.jobs}) == 1
        assert all(order.place(stop.before) < order.first(job) <= order.last(job) for job in stop.jobs)
        assert order.place(stop.end) == max(order.last(job) for job in stop.jobs)


def test_what_waits_is_counted() -> None:
    """Behind a branch's activation wait that and the shortcut, four bytes a number; at the end nothing does."""
    model = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), Residual())
    graph = trace(model.eval(), torch.randn(3, 4))
    order = _Order(graph)
    inner = next(n for n in graph.program.nodes if n.op == "tanh")
    assert order.waiting[order.place(inner.name)] == 4 * (24 + 10)
    assert order.waiting[-1] == 0
    assert order.inputs == 4 * 4


def test_too_little_memory_or_too_many_passes() -> None:
    graph, kept, _ = prepared("resnet20")
    work = jobs(graph, kept, producers=True, residual=True)
    assert find_stops(graph, work, 24, 1000, 0) is None
    assert find_stops(graph, work, 24, 0.5, 1 << 30) is None
    assert find_stops(graph, [], 24, 0, 0) == []


def test_less_memory_waits_where_less_is_kept() -> None:
    graph, kept, _ = prepared("resnet20")
    work = jobs(graph, kept, producers=True, residual=True)
    order = _Order(graph)
    roomy = find_stops(graph, work, 24, 1000, 1 << 30)
    assert roomy is not None
    most = max(order.waiting[order.place(stop.before)] for stop in roomy)
    limit = int(24 * (2 * most + order.inputs)) - 1
    narrow = find_stops(graph, work, 24, 1000, limit)
    assert narrow is not None
    assert max(order.waiting[order.place(stop.before)] for stop in narrow) < most
    assert [stop.jobs for stop in narrow] == [stop.jobs for stop in roomy]


@pytest.mark.parametrize("name", [*NAMES, "llama", "gpt2", "cosine"])
def test_waiting_is_one_sweep_a_layer(name: str) -> None:
    """The same weights to rounding, writes in place and all; here sweeps are more than layers."""
    graph, kept, batches = prepared(name)
    statistics = collect(graph, [graph.group(id) for id in kept], batches)
    waited = Sequential(positions=10_000, batch_norm=False, sweeps=1000)(graph, kept, statistics, batches)
    swept = Sequential(positions=10_000, batch_norm=False, sweeps=1000, waiting=0)(
        graph, kept, statistics, batches
    )
    assert any(not torch.equal(waited[n], statistics.tensors[n]) for n in waited)
    for tensor in waited:
        torch.testing.assert_close(waited[tensor], swept[tensor], rtol=1e-3, atol=1e-4)


def test_the_same_twice_and_the_batches_are_left_alone() -> None:
    graph, kept, batches = prepared("residual")
    before = [batch.clone() for batch in batches]
    statistics = collect(graph, [graph.group(id) for id in kept], batches)
    once, again = (WHOLE(graph, kept, statistics, batches) for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert all(torch.equal(a, b) for a, b in zip(before, batches, strict=True))
