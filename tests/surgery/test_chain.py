"""Prune, train, prune again: the artefact leads from the class that was pruned first to the last network."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from models import SMALL
from torch import Tensor, nn

import secateur as sc
from secateur.artefact.load import read
from secateur.ground.errors import ArtefactError, SurgeryError, UsageError
from secateur.surgery import apply, plan_from_json, plan_to_json
from secateur.surgery.chain import after, with_constants
from secateur.surgery.lineage import lineage
from secateur.surgery.plan import Fingerprint, Plan, RemoveBranch, SliceTensor

CASE = next(case for case in SMALL if case.name == "residual")


def data() -> list[Tensor]:
    return list(CASE.inputs(64, seed=3).split(16))


def pruned(model: nn.Module | sc.Result, macs: float, dense: nn.Module | None = None) -> sc.Result:
    return sc.prune(
        model,
        CASE.inputs(2),
        method=sc.SNP(),
        budget=sc.Budget(macs=macs),
        calibration=data(),
        dense=dense,
        progress=False,
    )


def trained(model: nn.Module) -> nn.Module:
    """Return a copy with other values, as training leaves them."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    x = CASE.inputs(3, seed=8)
    with torch.no_grad():
        return torch.equal(a.eval()(x), b.eval()(x))


def test_a_trained_copy_is_pruned_again_and_loaded_onto_the_first_class(tmp_path: Path) -> None:
    dense = CASE.model()
    once = pruned(dense, 0.7)
    twice = pruned(trained(once.model), 0.7)
    assert lineage(dense) is None
    assert len(twice.whole.steps) == 2
    assert twice.report.method == "SNP; SNP"
    assert twice.report.original == once.report.before
    assert twice.report.before == once.report.after
    assert "Of the original are left: parameters 0." in " ".join(str(twice.report).split())
    twice.save(tmp_path / "twice")
    once.save(tmp_path / "once")
    assert same(sc.load(tmp_path / "twice", CASE.make), twice.model)
    halfway = sc.load(tmp_path / "once", CASE.make)  # a model that has gone some of the way
    assert same(sc.load(tmp_path / "twice", halfway), twice.model)
    assert read(tmp_path / "twice").report["original"]["macs"] == once.report.before.macs
    sc.pack(tmp_path / "twice", tmp_path / "twice.sec")
    assert same(sc.load(tmp_path / "twice.sec", CASE.make), twice.model)


def test_a_result_goes_on_and_is_compared_with_the_network_that_was_pruned_first(tmp_path: Path) -> None:
    dense = CASE.model()
    once = pruned(dense, 0.8)
    once = once.updated(trained(once.model))
    twice = pruned(once, 0.5)
    assert twice.report.before == once.report.before
    assert twice.report.original is None
    share = twice.report.ratios()["macs"]
    assert share is not None
    assert 0.4 < share <= 0.5
    assert same(apply(dense, twice.plan), twice.model)
    twice.save(tmp_path / "twice")
    assert same(sc.load(tmp_path / "twice", CASE.make), twice.model)
    blocks = sc.prune(twice, CASE.inputs(2), method=sc.MicroStructured(zero=0.5), progress=False)
    blocks.save(tmp_path / "blocks")
    assert same(sc.load(tmp_path / "blocks", CASE.make), blocks.model)


def test_what_is_loaded_knows_where_it_came_from(tmp_path: Path) -> None:
    dense = CASE.model()
    pruned(dense, 0.8).save(tmp_path / "once")
    loaded = sc.load(tmp_path / "once", CASE.make)
    twice = pruned(loaded, 0.8)
    twice.save(tmp_path / "twice")
    thrice = pruned(sc.load(tmp_path / "twice", CASE.make), 0.8)
    thrice.save(tmp_path / "thrice")
    assert len(thrice.whole.steps) == 3
    assert same(sc.load(tmp_path / "thrice", CASE.make), thrice.model)
    beside = pruned(loaded, 0.5, dense=dense)
    assert beside.report.original is None
    assert beside.report.method == "SNP; SNP"
    share = beside.report.ratios()["macs"]
    assert share is not None
    assert 0.4 < share <= 0.5
    assert same(apply(dense, beside.plan), beside.model)
    assert len(beside.recipe["then"]) == 1


def test_a_fresh_process_loads_the_chain(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    options = {"method": sc.SNP(), "budget": sc.Budget(macs=0.7), "calibration": [x], "progress": False}
    once = sc.prune(net, x[:2], **options)  # type: ignore[arg-type]
    twice = sc.prune(trained(once.model), x[:2], **options)  # type: ignore[arg-type]
    twice.save(tmp_path / "twice")
    torch.save({"x": x, "y": twice.model(x)}, tmp_path / "seen.pt")
    program = """
import sys, torch, secateur as sc
from torch import nn
def build(): return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))
torch.set_num_threads(1)
seen = torch.load(sys.argv[1] + "/seen.pt")
assert torch.equal(sc.load(sys.argv[1] + "/twice", build).eval()(seen["x"]), seen["y"])
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


def test_the_past_is_text_that_needs_nothing_of_secateurs() -> None:
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    found = sc.prune(
        model, x[:2], method=sc.SNP(), budget=sc.Budget(macs=0.5), calibration=[x], progress=False
    ).model
    assert b"secateur." not in pickle.dumps(found)
    again = pickle.loads(pickle.dumps(found))
    assert lineage(again) == lineage(found) is not None
    again[0] = nn.Linear(6, 5)
    assert lineage(again) is None  # not the model any more that was pruned


def test_zeros_and_blocks_are_not_cut_through() -> None:
    dense = CASE.model()
    blocks = sc.prune(dense, CASE.inputs(2), method=sc.MicroStructured(zero=0.5), progress=False)
    with pytest.raises(UsageError, match="comes before"):
        pruned(blocks, 0.5)


CHAIN = Plan(
    {},
    (SliceTensor(("c.value",), 1, (0, 2), 5),),
    Fingerprint("Net", "1"),
    first=(Plan({}, (RemoveBranch(("c",), ("b",)),), Fingerprint("Net", "0")),),
)


def test_constants_get_the_size_that_they_had() -> None:
    value = torch.randn(1, 2, 1, 1)
    found = with_constants(CHAIN, {"c.value": value})
    assert found.first[0].tensors["c.value"].shape == (1, 5, 1, 1)
    assert with_constants(CHAIN.first[0], {"c.value": value}).tensors["c.value"] is value
    with pytest.raises(SurgeryError, match=r"no tensor 'c\.value'"):
        with_constants(CHAIN, {})
    with pytest.raises(SurgeryError, match="no dimension 1"):
        with_constants(CHAIN, {"c.value": torch.zeros(2)})
    huge = Plan({}, (SliceTensor(("c.value",), 1, (0,), 2**30),), Fingerprint("Net", "1"), first=CHAIN.first)
    with pytest.raises(SurgeryError, match="would have"):
        with_constants(huge, {"c.value": value})


def test_only_the_last_plan_has_others_before_it() -> None:
    data = plan_to_json(CHAIN)
    assert plan_from_json(data, {}) == CHAIN
    data["first"][0]["first"] = []
    with pytest.raises(ArtefactError, match=r"plan\.first\[0\] has an unknown entry"):
        plan_from_json(data, {})


def test_a_step_without_edits_is_none() -> None:
    whole, cut = Plan({}, (), Fingerprint("Net", "0")), CHAIN.steps[-1]
    assert cut.first == ()
    assert after([whole, cut], whole).steps == (cut, whole)


def test_a_chain_that_no_artefact_could_hold_is_not_made() -> None:
    cut = CHAIN.steps[-1]
    with pytest.raises(SurgeryError, match="after 101 others, and artefacts hold at most 100"):
        after([cut] * 101, cut)
