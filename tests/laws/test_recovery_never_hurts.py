"""Law 4: on the calibration data, recovery never raises the error of what it solves for.

One group is pruned at a time, so that everything upstream is dense and what is solved for can be measured: for a
layer refitted over its patches, its output where it counts (the residual sum, behind BatchNorm; one-sided where
only a ReLU reads it), channel by channel; for one pass over channel moments, the output of layers with a single tap.
"""

from collections.abc import Mapping
from functools import cache

import pytest
import torch
from models import SMALL
from repairs import errors_at, values_at
from torch import Tensor

from secateur.graph import Graph, Group, trace
from secateur.recovery import RIDGES, OnePass, Sequential
from secateur.recovery.jobs import Job, jobs, masked
from secateur.statistics import Statistics, collect, state_tensors

NAMES = [c.name for c in SMALL if c.name not in ("lenet300", "resnet20", "vgg16_bn", "shared")]
SEQUENTIAL = [
    Sequential(batch_norm=False, producers=False, warm=False, positions=10_000),
    Sequential(batch_norm=False, producers=False, warm=False, rectified=False, positions=10_000),
    Sequential(
        batch_norm=False, producers=False, warm=False, residual=False, positions=10_000, ridges=(1e-4,)
    ),
    Sequential(batch_norm=False, producers=False, positions=10_000),
]


@cache
def prepared(name: str) -> tuple[Graph, Statistics, Tensor]:
    case = next(case for case in SMALL if case.name == name)
    x = case.inputs(20, seed=3)
    graph = trace(case.model(), x[:2])
    return graph, collect(graph, graph.groups, x.split(8)), x


def one_by_one(graph: Graph) -> list[tuple[Group, tuple[int, ...]]]:
    """Return the groups that one layer makes, each with half of its units."""
    return [(g, tuple(range(0, g.size, 2))) for g in graph.groups if len(g.producers) == 1]


def refitted(graph: Graph, group: Group, kept: tuple[int, ...], residual: bool) -> list[Job]:
    return jobs(graph, {group.id: kept}, producers=False, residual=residual)


def reads_dense(graph: Graph, job: Job, tensors: Mapping[str, Tensor], x: Tensor) -> bool:
    """Whether what is left of a layer's input is as in the dense network: no other repaired layer comes before."""
    channels = job.input_channels()
    found, dense = (
        values_at(graph, job.layer.value, t, x).index_select(job.layer.channel_dim, channels)
        for t in (tensors, state_tensors(graph.program))
    )
    return torch.equal(found, dense)


@pytest.mark.parametrize("recovery", SEQUENTIAL, ids=["default", "linear", "own output", "warm"])
@pytest.mark.parametrize("name", NAMES)
def test_sequential(name: str, recovery: Sequential) -> None:
    graph, statistics, x = prepared(name)
    gained = 0.0
    for group, kept in one_by_one(graph):
        before = masked(graph, statistics.tensors, {group.id: kept})
        if recovery.warm:  # then one pass comes first, and what it leaves is what must not get worse
            before = OnePass(recovery.ridges)(graph, {group.id: kept}, statistics, x.split(8))
        after = recovery(graph, {group.id: kept}, statistics, x.split(8))
        for job in refitted(graph, group, kept, recovery.residual):
            if not reads_dense(graph, job, after, x):
                continue
            rectified = recovery.rectified and job.outlet.rectified
            old = errors_at(graph, job.layer, before, x, job.outlet.end, rectified)
            new = errors_at(graph, job.layer, after, x, job.outlet.end, rectified)
            scale = float(old.max()) + 1e-6
            assert bool((new <= old * (1 + 1e-3) + 1e-5 * scale).all()), (group.id, job.layer.module)
            gained += float((old - new).sum())
    assert gained > 0


@pytest.mark.parametrize("recovery", [OnePass(), OnePass(ridges=RIDGES), OnePass(centred=True)], ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_one_pass(name: str, recovery: OnePass) -> None:
    graph, statistics, x = prepared(name)
    for group, kept in one_by_one(graph):
        before = masked(graph, statistics.tensors, {group.id: kept})
        after = recovery(graph, {group.id: kept}, statistics, x.split(8))
        for job in refitted(graph, group, kept, residual=False):
            if job.taps == 1 and reads_dense(graph, job, after, x):
                old = errors_at(graph, job.layer, before, x, job.outlet.end)
                new = errors_at(graph, job.layer, after, x, job.outlet.end)
                scale = float(old.max()) + 1e-6
                assert bool((new <= old * (1 + 1e-3) + 1e-5 * scale).all()), (group.id, job.layer.module)


def test_channel_moments_never_lose_inputs() -> None:
    """For a convolution with several taps, one pass promises its input at the positions that it reads."""
    graph, statistics, _ = prepared("residual")
    layer = next(layer for layer in graph.layers if layer.module == "b1")
    gram = statistics.sites[layer.node].gram
    gram = gram + 1e-9 * gram.diagonal().mean() * torch.eye(len(gram))  # one unit is dead here
    for kept in ((0, 2, 4), (1, 5), (3,)):
        k = torch.tensor(kept)
        mixing = gram[:, k] @ torch.linalg.inv(gram[k][:, k])
        left = gram - mixing @ gram[k]
        dropped = gram.diagonal().clone()
        dropped[k] = 0
        assert bool((left.diagonal() <= dropped + 1e-9).all())
