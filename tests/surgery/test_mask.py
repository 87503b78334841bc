"""The masked model: zeros where removed units are read, everything else the dense model's own."""

import torch
from models import SMALL

from secateur.graph import trace
from secateur.surgery import mask


def test_only_what_is_zeroed_is_copied() -> None:
    case = next(case for case in SMALL if case.name == "residual")
    model, x = case.model(), case.inputs(2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    graph = trace(model, x)
    group = next(g for g in graph.groups if g.id == "a1")
    masked = mask(model, graph, {group.id: tuple(range(1, group.size))})
    shared = {n for n, p in masked.named_parameters() if p is model.get_parameter(n)}
    assert shared == set(before) - {"b1.weight"}
    assert not masked.get_parameter("b1.weight")[:, 0].any()
    for name, value in before.items():
        assert torch.equal(model.get_parameter(name), value)
    own = {id(b) for b in model.buffers()}  # a masked model may be run in training mode
    assert not any(id(b) in own for b in masked.buffers())
