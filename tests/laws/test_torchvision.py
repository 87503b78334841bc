"""Laws 1 and 2 over torchvision's models with unusual operators, each pruned, verified, saved and loaded once.

Their code shuffles channels, gates them, concatenates, strides, convolves by depth and group, and normalises.
"""

from pathlib import Path

import pytest
import torch
from models import OPERATORS, Case, random_selection

from secateur.artefact import load, save
from secateur.graph import Graph, Group, trace
from secateur.surgery import apply, make_plan, mask, verify
from secateur.surgery.candidates import candidates

# Share of the MACs in layers that lose something when every group does; where nothing is said, all of them.
REACH = {"convnext_tiny": 0.93, "shufflenet_v2_x0_5": 0.99}


def reach(graph: Graph, groups: tuple[Group, ...]) -> float:
    """Return the share of the MACs that is spent in layers of which these groups own a part."""
    owned = {s.parameter for group in groups for s in group.slices}
    macs = graph.macs()
    return sum(macs[layer.node] for layer in graph.layers if layer.weight in owned) / sum(macs.values())


@pytest.mark.parametrize("case", OPERATORS, ids=lambda case: case.name)
def test_pruned_verified_saved_and_loaded(case: Case, tmp_path: Path) -> None:
    model, x = case.model(), case.inputs()
    graph = trace(model, x)
    assert reach(graph, graph.groups) >= REACH.get(case.name, 1)
    assert reach(graph, candidates(model, graph).groups) >= min(REACH.get(case.name, 1), 0.97)

    kept = random_selection(graph, 0.35, 0)
    assert all(len(kept[group.id]) < group.size for group in graph.groups)
    plan = make_plan(model, graph, kept)
    smaller = apply(model, plan)
    others = case.inputs(batch=3, seed=5)
    assert verify(mask(model, graph, kept), smaller, graph, kept, (others,)).relative < 1e-5
    assert sum(p.numel() for p in smaller.parameters()) == graph.params(kept) < 0.8 * graph.params()

    loaded = load(save(tmp_path / "artefact", smaller, plan, {"case": case.name}, {}), case.make)
    with torch.no_grad():
        dense, expected = model(others), smaller(others)
        assert torch.equal(loaded(others), expected)
    # Without these the law would hold for a model that pruning does not change, or that hardly sees its inputs.
    assert float((dense - expected).abs().max() / dense.abs().max()) > 1e-2
    assert float(expected.std(0).max() / expected.abs().max()) > 1e-4
