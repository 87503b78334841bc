"""Where batches wait, so that every layer is solved after all before it and no batch runs again from the inputs.

A batch that waits behind a node keeps the values that later nodes read. Layers are solved front to back: batches run
on from where they wait to the layers of the next stop, are watched, and go on once the layers have been solved. So
the network is gone through about twice in all, however many layers there are, where sweeps from the inputs take one
pass for each layer or let layers share one (see `schedule`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.graph import Graph, Node
from secateur.graph.program import references

from .jobs import Job
from .schedule import apart, reached

__all__ = ["Stop", "find_stops"]

_ITEM = 4  # bytes of a number in float32, in which networks run


@dataclass(frozen=True)
class Stop:
    """Layers that are solved together: batches wait behind the node `before`, and are watched up to the node `end`."""

    jobs: tuple[Job, ...]
    before: str
    end: str


def find_stops(
    graph: Graph, jobs: Sequence[Job], samples: int, passes: float, memory: int
) -> list[Stop] | None:
    """Return the stops, front to back, each with the layers of one level of one block.

    None if all `samples` that wait, their inputs and what the dense and the pruned network keep of them, need more
    than `memory` bytes somewhere, or if running costs more than `passes` full passes.
    """
    order = _Order(graph)
    stages = apart(graph, jobs)
    # What is computed of a stage's parameters may not wait: they are about to change, as are those of later stages.
    first = len(order.names)
    latest = []
    for stage in reversed(stages):
        first = min(first, *(order.first(job) for job in stage))
        latest.append(first - 1)
    latest.reverse()
    limit = (memory / max(samples, 1) - order.inputs) / 2  # of each sample in each network
    stops, behind = [], 0
    for stage, last in zip(stages, latest, strict=True):
        fitting = (p for p in range(last, behind - 1, -1) if order.waiting[p] <= limit)
        place = next(fitting, None)
        if place is None:
            return None
        behind = place
        end = max(order.last(job) for job in stage)
        stops.append(Stop(tuple(stage), order.names[place], order.names[end]))
    return stops if _cost(graph, stops) <= passes else None


def _cost(graph: Graph, stops: Sequence[Stop]) -> float:
    """Return how many full passes the stops cost: each stretch that is watched, and the way to the last stop."""
    if not stops:
        return 0.0
    share = reached(graph)
    watched = sum(max(share[stop.end] - share[stop.before], 0.0) for stop in stops)
    return watched + share[stops[-1].before]


class _Order:
    """Places of the nodes, which run one after the other."""

    def __init__(self, graph: Graph) -> None:
        nodes = graph.program.nodes
        self._graph = graph
        self.names = [node.name for node in nodes]
        self._place = {name: i for i, name in enumerate(self.names)}
        given = [n for n in nodes if n.op == "placeholder" and n.name not in graph.program.parameters]
        self.inputs = sum(map(self._size, given))
        self.waiting = self._waiting(nodes)

    def place(self, name: str) -> int:
        return self._place[name]

    def first(self, job: Job) -> int:
        """Return the place of the first call that reads one of a job's tensors."""
        own = {job.layer.weight, job.layer.bias, job.intercept}
        parameters = self._graph.program.parameters
        holders = [holder for holder, names in parameters.items() if names[0] in own]
        users = (user.name for holder in holders for user in self._graph.users(holder))
        return min(self.place(job.layer.node), *(self.place(name) for name in users))

    def last(self, job: Job) -> int:
        """Return the place of the last node at which a job is watched."""
        return max(self.place(name) for name in (job.layer.node, job.outlet.end, job.outlet.join) if name)

    def _waiting(self, nodes: Sequence[Node]) -> list[float]:
        """Return by place the bytes that one sample keeps while it waits behind that node."""
        last: dict[str, int] = {}
        for node in nodes:
            for name in references((node.args, node.kwargs)):
                last[name] = max(last.get(name, 0), self.place(node.name))
        change = [0.0] * (len(self.names) + 1)
        for node in nodes:
            place = self.place(node.name)
            if node.op != "placeholder" and last.get(node.name, 0) > place:
                change[place] += self._size(node)
                change[last[node.name]] -= self._size(node)
        total, waiting = 0.0, []
        for step in change[:-1]:
            total += step
            waiting.append(total)
        return waiting

    def _size(self, node: Node) -> float:
        """Return the bytes of one sample of what a node makes."""
        return _ITEM * sum(_numbers(node)) / max(self._graph.program.batch, 1)


def _numbers(node: Node) -> Iterator[int]:
    """Yield how many numbers each output of a node has."""
    shapes: tuple[Any, ...] = node.shape or ()
    for shape in (shapes,) if all(isinstance(n, int) for n in shapes) else shapes:
        if isinstance(shape, tuple):
            yield math.prod(shape)
