"""From labels to groups: which units go together, who makes them and who reads them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .analysis import Analysis
from .groups import Frozen, Group, Kind, Segment, Site, Slice
from .labels import Labels
from .layers import Layer
from .program import Program
from .rules.convolution import passes_groups

__all__ = ["Units", "find_frozen", "find_groups"]

_Key = tuple[str, int]


@dataclass(frozen=True)
class Units:
    """Where each label's unit stands: in the concatenation of all groups' units, or nowhere."""

    number: Labels  # label -> position, or `count` for labels that stay whatever is selected
    start: Mapping[str, int]  # group id -> position of its first unit
    count: int

    def of(self, labels: Labels) -> Labels:
        """Return the positions of the units of these labels."""
        return self.number[labels]


@dataclass(frozen=True)
class _Candidate:
    """Units that own something in the same parameter dimensions."""

    signature: frozenset[_Key]
    roots: Labels  # in order of the first index that each owns
    producers: tuple[Site, ...]
    consumers: tuple[Site, ...]
    order: tuple[int, _Key]  # where its first producer stands in the program
    name: str


def find_groups(
    program: Program, analysis: Analysis, layers: Sequence[Layer]
) -> tuple[tuple[Group, ...], Units, tuple[Frozen, ...]]:
    """Return the groups in order of their first producers, their units, and what was too small to be one."""
    candidates, lonely = _candidates(program, analysis, layers)
    everything = analysis.sets.find(np.arange(len(analysis.sets)))
    kinds = _kinds(analysis)
    number = np.full(len(everything), -1, dtype=np.int64)
    start: dict[str, int] = {}
    groups: list[Group] = []
    for candidate, identity in zip(candidates, _identities(candidates), strict=True):
        size, count = len(candidate.roots), sum(g.size for g in groups)
        unit = np.full(len(everything), -1, dtype=np.int64)
        unit[candidate.roots] = np.arange(size)
        owner_of = unit[everything]  # label -> unit of this group, or -1
        number = np.where(owner_of >= 0, owner_of + count, number)
        start[identity] = count
        groups.append(
            Group(
                id=identity,
                kind=next((kinds[r] for r in candidate.roots.tolist() if r in kinds), "channel"),  # pyright: ignore[reportArgumentType]
                size=size,
                slices=tuple(_slices(analysis, candidate.signature, owner_of)),
                producers=candidate.producers,
                consumers=candidate.consumers,
                segments=_segments(analysis, owner_of, size),
            )
        )
    total = sum(g.size for g in groups)
    units = Units(np.where(number < 0, total, number), start, total)
    return tuple(groups), units, lonely


def _candidates(
    program: Program, analysis: Analysis, layers: Sequence[Layer]
) -> tuple[list[_Candidate], tuple[Frozen, ...]]:
    position = {node.name: i for i, node in enumerate(program.nodes)}
    modules = {layer.node: layer.module for layer in layers}
    candidates: list[_Candidate] = []
    lonely: list[Frozen] = []
    for signature, roots in _roots_by_signature(analysis).items():
        if len(roots) < 2:
            lonely += [Frozen(p, d, "has a single unit", "", _owner(p), "") for p, d in sorted(signature)]
            continue
        producers, consumers = _sites(layers, signature)
        if producers:
            site = producers[0]
            order = position[site.node], (site.parameter, site.dim)
        else:
            order = min((min(map(position.__getitem__, program.readers[p])), (p, d)) for p, d in signature)
        name = (modules[producers[0].node] if producers else "") or _owner(order[1][0])
        ordered = _by_first_index(analysis, order[1], roots)
        candidates.append(_Candidate(signature, ordered, tuple(producers), tuple(consumers), order, name))
    return sorted(candidates, key=lambda c: (*c.order, c.roots[0])), tuple(lonely)


def _owner(parameter: str) -> str:
    """The module of a parameter; for one of the model's own, the parameter."""
    return parameter.rpartition(".")[0] or parameter


def _identities(candidates: Sequence[_Candidate]) -> list[str]:
    taken: Counter[str] = Counter()
    identities = []
    for candidate in candidates:
        taken[candidate.name] += 1
        count = taken[candidate.name]
        identities.append(candidate.name if count == 1 else f"{candidate.name}#{count}")
    return identities


def find_frozen(analysis: Analysis) -> tuple[Frozen, ...]:
    """Return every parameter dimension of which some index is frozen, with the most frequent reason.

    Positions inside kernels and convolution groups are left out: they are not what anyone would prune.
    """
    frozen = []
    for name, dims in analysis.parameters.items():
        for d, labels in enumerate(dims):
            if labels is None:
                continue
            fixed = labels[analysis.sets.find(labels) == 0]
            reasons = Counter(
                r for x in fixed.tolist() if (r := analysis.sets.reason(x)) and not r.structural
            )
            if reasons:
                why = reasons.most_common(1)[0][0]
                frozen.append(Frozen(name, d, why.text, why.op, why.module, why.source))
    return tuple(frozen)


def _roots_by_signature(analysis: Analysis) -> dict[frozenset[_Key], list[int]]:
    """Units by the set of parameter dimensions in which they own something."""
    places: dict[int, set[_Key]] = defaultdict(set)
    for name, dims in analysis.parameters.items():
        for d, labels in enumerate(dims):
            if labels is not None:
                for root in np.unique(analysis.sets.find(labels)).tolist():
                    if root:
                        places[root].add((name, d))
    signatures: dict[frozenset[_Key], list[int]] = defaultdict(list)
    for root, keys in places.items():
        signatures[frozenset(keys)].append(root)
    return signatures


def _sites(layers: Iterable[Layer], signature: frozenset[_Key]) -> tuple[list[Site], list[Site]]:
    producers, consumers = [], []
    for layer in layers:
        made, read = (layer.weight, layer.out_dim), (layer.weight, layer.in_dim)
        dim = layer.channel_dim
        if passes_groups(layer.groups, layer.width):
            continue
        if made in signature:
            producers.append(Site(*made, layer.node, layer.op, layer.node, dim))
        if read in signature:
            consumers.append(Site(*read, layer.node, layer.op, layer.value, dim))
    return producers, consumers


def _by_first_index(analysis: Analysis, key: _Key, members: Sequence[int]) -> Labels:
    labels = analysis.parameters[key[0]][key[1]]
    assert labels is not None
    roots, first = np.unique(analysis.sets.find(labels), return_index=True)
    wanted = np.isin(roots, members)
    return roots[wanted][np.argsort(first[wanted])]


def _slices(analysis: Analysis, signature: frozenset[_Key], owner_of: Labels) -> Iterable[Slice]:
    for name, dims in analysis.parameters.items():
        for d, labels in enumerate(dims):
            if labels is not None and (name, d) in signature:
                yield Slice(name, d, tuple(owner_of[labels].tolist()))


def _segments(analysis: Analysis, owner_of: Labels, size: int) -> tuple[Segment, ...]:
    """Pieces that lie wholly in this group and hold only a part of its units."""
    segments = {}
    for piece in analysis.pieces:
        owners = np.unique(owner_of[piece.labels])
        if owners[0] >= 0 and len(owners) < size:
            units = frozenset(owners.tolist())
            segments[units] = Segment(units, piece.reason)
    return tuple(segments.values())


def _kinds(analysis: Analysis) -> dict[int, Kind]:
    kinds: dict[int, Kind] = {}
    for kind, labels in analysis.marks:
        for root in np.unique(analysis.sets.find(labels)).tolist():
            if root:
                kinds.setdefault(root, kind)
    return kinds
