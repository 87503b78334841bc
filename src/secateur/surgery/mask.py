"""The dense model with the removed units zeroed where they are read: what a smaller model must equal."""

from __future__ import annotations

import torch
from torch import nn

from secateur.graph.graph import Graph
from secateur.graph.groups import Kept
from secateur.graph.unread import read_by
from secateur.ground.copies import copied
from secateur.ground.tensors import tensors_of

__all__ = ["mask"]


def mask(model: nn.Module, graph: Graph, kept: Kept) -> nn.Module:
    """Return a copy of the dense model that reads nothing from the units that are not kept.

    The weights of every consumer are zero where they meet a removed unit, and so are the parameters from which
    other calls compute their weights. A group whose units no layer reads (they meet one another inside an
    attention, say) has them zeroed wherever it owns something. Parameters without such zeros are those of the model.
    """
    zeros = [
        (owned, [i for i, unit in enumerate(owned.owner) if unit in gone])
        for group in graph.groups
        if (gone := set(range(group.size)).difference(kept.get(group.id, range(group.size))))
        for owned in read_by(group, graph.computed)
    ]
    dense = tensors_of(model)
    written = {id(dense[owned.parameter]) for owned, _ in zeros}
    masked = copied(model, {id(p): p for p in model.parameters() if id(p) not in written})
    tensors = tensors_of(masked)
    for owned, index in zeros:
        tensor = tensors[owned.parameter]
        with torch.no_grad():
            tensor.index_fill_(owned.dim, torch.tensor(index, device=tensor.device), 0)
    return masked
