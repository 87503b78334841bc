"""Which layers share a sweep: as few as the bound on sweeps allows, and never two of which one feeds the other.

A layer that is solved in the same sweep as the layer before it is solved on inputs that are about to change. Across
a residual sum that change is small; straight along a branch it is not (measured: docs/decisions/0003). So blocks,
the stretches between sums, are taken in chunks, and in a chunk all first layers share a sweep, then all second
layers, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from secateur.graph import Graph
from secateur.graph.program import references

from .jobs import Job

__all__ = ["apart", "reached", "schedule"]

_JOINS = frozenset({"add", "sub", "iadd", "cat", "concat", "stack"})


def schedule(graph: Graph, jobs: Sequence[Job], sweeps: float) -> list[list[Job]]:
    """Return the stages, in order, whose passes cost at most `sweeps` full passes where that can be had.

    A pass ends at the last layer of its stage and counts for the share of the network's MACs up to there.
    """
    if not jobs:
        return []
    levels = _levels(graph, jobs)
    blocks = _blocks(jobs, levels)
    shares = reached(graph)
    for chunks in range(len(blocks), 0, -1):
        stages = [s for chunk in _even(blocks, chunks) for s in _by_level(chunk, levels)]
        if _cost(stages, shares) <= sweeps:
            return stages
    stages = _by_level(blocks, levels)
    for count in range(len(stages) - 1, 0, -1):
        merged = [[job for s in part for job in s] for part in _even(stages, count)]
        if _cost(merged, shares) <= sweeps or count == 1:
            return merged
    return stages


def apart(graph: Graph, jobs: Sequence[Job]) -> list[list[Job]]:
    """Return the stages in which each layer comes after all that feed it: block by block, level by level."""
    levels = _levels(graph, jobs)
    return [stage for block in _blocks(jobs, levels) for stage in _by_level([block], levels)]


def _even(items: list[list[Job]], parts: int) -> list[list[list[Job]]]:
    edges = [round(i * len(items) / parts) for i in range(parts + 1)]
    return [items[a:b] for a, b in pairwise(edges)]


def _cost(stages: list[list[Job]], reached: dict[str, float]) -> float:
    return sum(max(reached[job.outlet.join or job.layer.node] for job in stage) for stage in stages)


def reached(graph: Graph) -> dict[str, float]:
    """Return for each node the share of all MACs that has been spent once it has run."""
    macs = graph.macs({})
    total, so_far, shares = max(sum(macs.values()), 1), 0, {}
    for node in graph.program.nodes:
        so_far += macs.get(node.name, 0)
        shares[node.name] = so_far / total
    return shares


def _levels(graph: Graph, jobs: Sequence[Job]) -> dict[str, int]:
    """Return by node how many jobs come before it on its branch, counted from the last sum or concatenation."""
    by_node = {job.layer.node for job in jobs}
    after: dict[str, int] = {}  # jobs on the way to a node's output
    levels = {}
    for node in graph.program.nodes:
        before = max((after.get(name, 0) for name in references((node.args, node.kwargs))), default=0)
        if node.name in by_node:
            levels[node.name] = before
            after[node.name] = before + 1
        else:
            after[node.name] = 0 if node.op in _JOINS else before
    return levels


def _blocks(jobs: Sequence[Job], levels: dict[str, int]) -> list[list[Job]]:
    blocks: list[list[Job]] = []
    for job in jobs:
        level = levels[job.layer.node]
        if not blocks or level == 0 or level <= levels[blocks[-1][-1].layer.node]:
            blocks.append([])
        blocks[-1].append(job)
    return blocks


def _by_level(blocks: list[list[Job]], levels: dict[str, int]) -> list[list[Job]]:
    found: dict[int, list[Job]] = {}
    for block in blocks:
        for job in block:
            found.setdefault(levels[job.layer.node], []).append(job)
    return [found[level] for level in sorted(found)]
