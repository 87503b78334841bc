"""Law 2: an artefact applied to a fresh model of the same class gives bit-equal outputs."""

from pathlib import Path

import pytest
import torch
from models import SMALL, TORCHVISION, Case, random_selection

from secateur.artefact import load, pack, read, save
from secateur.graph import trace
from secateur.surgery import apply, make_plan

CASES = [*SMALL, *(case for case in TORCHVISION if case.name in ("resnet18", "mobilenet_v2"))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_saved_is_loaded(case: Case, tmp_path: Path) -> None:
    model = case.model()
    graph = trace(model, case.inputs())
    # Some branches go as a whole, and one repaired tensor differs from the sliced one.
    branches = frozenset([group.id for group in graph.groups if group.removable][::2])
    kept = random_selection(graph, 0.4, 3, empty=branches)
    plain = apply(model, make_plan(model, graph, kept))
    name = [name for name, _ in plain.named_parameters()][-1]
    repaired = {name: plain.get_parameter(name).detach() * 1.5}
    plan = make_plan(model, graph, kept, repaired)
    smaller = apply(model, plan)

    folder = save(tmp_path / "artefact", smaller, plan, {"case": case.name}, {})
    packed = pack(folder, tmp_path / "artefact.sec").path
    x = case.inputs(batch=3, seed=8)
    with torch.no_grad():
        expected = smaller(x)
        assert not torch.equal(plain(x), expected)
    for saved in (folder, packed):
        torch.manual_seed(99)
        loaded = load(saved, case.make)
        with torch.no_grad():
            assert torch.equal(loaded(x), expected)
        assert list(loaded.state_dict()) == list(smaller.state_dict())
        assert [type(m) for m in loaded.modules()] == [type(m) for m in smaller.modules()]
        assert read(saved).plan.edits == plan.edits
    assert packed.stat().st_size < sum(file.stat().st_size for file in folder.iterdir())
