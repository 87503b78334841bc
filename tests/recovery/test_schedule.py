"""Which layers share a sweep."""

from functools import cache
from itertools import pairwise

import pytest
from models import SMALL, random_selection

from secateur.graph import Graph, trace
from secateur.recovery.jobs import Job, jobs
from secateur.recovery.schedule import _cost, _levels, reached, schedule

NAMES = ["resnet20", "vgg16_bn", "residual", "depthwise", "dense", "mixer", "perceptron"]


@cache
def prepared(name: str) -> tuple[Graph, tuple[Job, ...]]:
    case = next(case for case in SMALL if case.name == name)
    graph = trace(case.model(), case.inputs())
    inner = {g.id: k for g in graph.groups if len(g.producers) == 1 for k in [tuple(range(0, g.size, 2))]}
    return graph, tuple(jobs(graph, inner, producers=True, residual=True))


@pytest.mark.parametrize("sweeps", [1, 2, 4, 6, 50])
@pytest.mark.parametrize("name", NAMES)
def test_every_job_once_and_in_order_along_its_branch(name: str, sweeps: float) -> None:
    graph, work = prepared(name)
    stages = schedule(graph, work, sweeps)
    flat = [job.layer.node for stage in stages for job in stage]
    assert sorted(flat) == sorted(job.layer.node for job in work)
    assert all(stages)
    stage_of = {job.layer.node: i for i, stage in enumerate(stages) for job in stage}
    levels = _levels(graph, work)
    for before, after in pairwise(work):
        if levels[after.layer.node] == levels[before.layer.node] + 1:
            assert stage_of[before.layer.node] <= stage_of[after.layer.node]


@pytest.mark.parametrize("sweeps", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("name", NAMES)
def test_the_bound_is_kept(name: str, sweeps: float) -> None:
    graph, work = prepared(name)
    assert _cost(schedule(graph, work, sweeps), reached(graph)) <= sweeps + 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_layers_of_one_block_are_apart_where_the_bound_allows(name: str) -> None:
    graph, work = prepared(name)
    levels = _levels(graph, work)
    deepest = max(levels.values()) + 1
    for stage in schedule(graph, work, deepest):  # one pass a level always suffices
        nodes = [levels[job.layer.node] for job in stage]
        assert len(set(nodes)) == 1


def test_blocks_are_taken_front_to_back_where_sweeps_are_plenty() -> None:
    graph, work = prepared("resnet20")
    stages = schedule(graph, work, 1000)
    assert [job.layer.node for stage in stages for job in stage] == [job.layer.node for job in work]
    assert all(len(stage) == 1 for stage in stages)


def test_nothing_to_do() -> None:
    graph, _ = prepared("perceptron")
    assert schedule(graph, [], 7) == []
    assert jobs(graph, {}, producers=True, residual=True) == []
    everything = {g.id: tuple(range(g.size)) for g in graph.groups}
    assert jobs(graph, everything, producers=True, residual=True) == []


def test_what_selection_touches() -> None:
    graph, _ = prepared("residual")
    kept = {"a1": (0, 3)}
    both = {job.layer.module: job for job in jobs(graph, kept, producers=True, residual=True)}
    assert set(both) == {"a1", "b1"}
    assert both["a1"].outputs.tolist() == [[0, 3]]
    assert both["b1"].inputs.tolist() == [[0, 3]]
    assert both["b1"].intercept == "b1.bias"
    assert both["b1"].outlet.join is not None
    alone = jobs(graph, kept, producers=False, residual=False)
    assert [job.layer.module for job in alone] == ["b1"]
    assert alone[0].outlet.join is None


def test_layers_that_are_called_twice_are_left() -> None:
    case = next(case for case in SMALL if case.name == "shared")
    graph = trace(case.model(), case.inputs())
    kept = random_selection(graph, 0.4, 0)
    assert all(job.layer.module not in ("again", "hidden", "tied") for job in jobs(graph, kept, True, True))
