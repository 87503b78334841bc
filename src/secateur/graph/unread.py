"""Units that nothing reads: the backward sweep over connections that are gone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .graph import Graph
from .groups import Group, Slice

__all__ = ["read_by", "sweep", "unread"]


def read_by(group: Group, computed: frozenset[str]) -> tuple[Slice, ...]:
    """Return where a group's units are read: once all of it is zero at a unit, that unit may go.

    That is the weights of its consumers and the parameters from which calls compute their weights (`Graph.computed`);
    for a group whose units no layer reads (they meet one another inside an attention, say) all that it owns.
    """
    sites = {(site.parameter, site.dim) for site in group.consumers}
    read = (s for s in group.slices if (s.parameter, s.dim) in sites or s.parameter in computed)
    return tuple(read) or group.slices


def unread(graph: Graph, group: Group, alive: Mapping[str, Tensor]) -> Tensor:
    """Return which units of a group nothing reads, bool (size,).

    `alive` says by canonical name which entries of a parameter are not zero; those that it does not name all count.
    """
    read = torch.zeros(group.size, dtype=torch.bool)
    for s in read_by(group, graph.computed):
        owner = torch.tensor(s.owner)
        there = owner >= 0
        if s.parameter in alive:
            others = [d for d in range(alive[s.parameter].ndim) if d != s.dim]
            entries = alive[s.parameter]
            there &= (entries.any(others) if others else entries).cpu()
        read[owner[there]] = True
    return ~read


def sweep(graph: Graph, alive: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `alive` without all that belongs to units that nothing reads, from the last layer to the first.

    A unit whose connections are gone feeds nothing, so what it reads is not needed either, and so on until nothing
    changes. Only parameters that `alive` names lose entries; the given tensors stay as they are.
    """
    left = {name: entries.clone() for name, entries in alive.items()}
    gone = {group.id: torch.zeros(group.size, dtype=torch.bool) for group in graph.groups}
    changed = True
    while changed:
        changed = False
        for group in reversed(graph.groups):
            fresh = unread(graph, group, left) & ~gone[group.id]
            if not bool(fresh.any()):
                continue
            changed = True
            gone[group.id] |= fresh
            for s in group.slices:
                if s.parameter in left:
                    owner = torch.tensor(s.owner)
                    index = (fresh[owner.clamp_min(0)] & (owner >= 0)).nonzero().flatten()
                    left[s.parameter].index_fill_(s.dim, index.to(left[s.parameter].device), False)
    return left
