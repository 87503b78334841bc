"""Which groups a run may prune, and the selection among them that this model's code allows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from secateur.graph import Graph, Group
from secateur.graph.program import references
from secateur.ground.patterns import Pattern, check_patterns, matches

from .trial import editable, removable

__all__ = ["Candidates", "candidates", "tried"]

_SUMS = frozenset({"add", "iadd", "sub"})


@dataclass(frozen=True)
class Candidates:
    """Groups that may be pruned, and by group id why the others may not."""

    groups: tuple[Group, ...]
    refused: dict[str, str]


def candidates(
    model: nn.Module, graph: Graph, exclude: Iterable[Pattern] = (), *, streams: bool = False
) -> Candidates:
    """Return the groups that may be pruned.

    A group is excluded when a pattern names one of its producers, or a module that one is part of, by a glob over
    module paths or by type. Residual streams, to which layers add that read them, stay whole unless `streams` is true.

    Raises:
        UnknownNameError: a glob matches no module.
    """
    patterns = tuple(exclude)
    check_patterns(model, patterns, "exclude")
    modules = {layer.node: layer.module for layer in graph.layers}
    refused: dict[str, str] = {}
    wanted: list[Group] = []
    for group in graph.groups:
        producers = [modules[site.node] for site in group.producers if site.node in modules]
        hit = next((path for path in producers if any(matches(model, path, p) for p in patterns)), None)
        if hit is not None:
            refused[group.id] = f"{hit} is excluded"
        elif not graph.computed.isdisjoint(s.parameter for s in group.slices):
            refused[group.id] = (
                "a layer computes its weight from parameters, so that its units cannot be ranked: "
                "see secateur.fold_weights"
            )
        elif not group.consumers:
            refused[group.id] = "no convolution or linear layer reads it"
        elif not group.producers:
            refused[group.id] = "no convolution or linear layer makes it"
        elif not streams and _is_stream(graph, group):
            refused[group.id] = (
                "a residual stream: layers that read it add to it (streams=True lets it lose units)"
            )
        else:
            wanted.append(group)
    return Candidates(tuple(wanted), refused)


def tried(model: nn.Module, graph: Graph, chosen: Candidates) -> Candidates:
    """Return the candidates that a copy of this model can really lose units of, the others with the reason.

    This takes an export or more, so it is for models in which a selection could not be carried out: their code
    repeats a size somewhere, as a number.
    """
    trial = editable(model, graph, [g.id for g in chosen.groups])
    left = [g for g in chosen.groups if g.id in set(trial.groups)]
    whole = set(removable(model, graph, [g.id for g in left if g.removable]).groups)
    return Candidates(
        tuple(replace(g, removable=g.id in whole) for g in left), {**chosen.refused, **trial.refused}
    )


def _is_stream(graph: Graph, group: Group) -> bool:
    """Whether what reads the group comes back and is added to it.

    Outputs of different producers that are multiplied (gates, attention), or added for once (a time embedding, a
    shift by a condition), make no stream: nothing else in the network builds on their width.
    """
    producers = {site.node for site in group.producers}
    consumers = {site.node for site in group.consumers}
    makers: dict[str, frozenset[str]] = {}
    apart = {layer.node for layer in graph.layers if layer.groups > 1}  # depthwise: no unit reads another
    behind = consumers - (producers & apart)
    added = back = False
    for node in graph.program.nodes:
        names = references((node.args, node.kwargs))
        if node.name in behind or not behind.isdisjoint(names):
            behind.add(node.name)
            back |= node.name in producers
        read = [makers.get(name, frozenset()) for name in names]
        added |= node.op in _SUMS and len({m for m in read if m}) > 1
        made = frozenset([node.name]) if node.name in producers else frozenset[str]().union(*read)
        makers[node.name] = frozenset() if node.name in consumers - producers else made
    return added and back
