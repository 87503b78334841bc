"""Quantised networks: what they compute, what stays as it was, how they are kept, and what is refused."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.case import Case
from secateur.ground.errors import (
    ArtefactError,
    CalibrationError,
    SurgeryError,
    UnknownNameError,
    UsageError,
)
from secateur.ground.inputs import Inputs
from secateur.ground.tensors import tensors_of
from secateur.methods import Draft
from secateur.quantisation import Options, quantisable, quantised
from secateur.surgery import QuantisedConv2d, QuantisedLinear, apply, plan_from_json, plan_to_json
from tests.helpers.quantised import drafted, pictures

NET, DATA = pictures()


@pytest.fixture(scope="module")
def draft() -> Draft:
    return drafted(NET, DATA)


def distance(a: nn.Module, b: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((a(x) - b(x)).norm() / a(x).norm())


def test_outputs_are_close_and_the_stated_error_is_theirs(draft: Draft) -> None:
    found = draft.evidence.quantisation
    assert found is not None
    fresh = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    assert 0 < distance(NET, draft.model, fresh) < 0.04
    assert found.error**0.5 == pytest.approx(distance(NET, draft.model, fresh), rel=0.5)
    assert draft.evidence.max_masked_difference < 1e-5


def test_weights_are_integers_times_scales(draft: Draft) -> None:
    layers = [m for m in draft.model.modules() if isinstance(m, QuantisedConv2d | QuantisedLinear)]
    assert len(layers) == 7
    for layer in layers:
        integers = layer.integers()
        assert integers.dtype == torch.int8
        assert int(integers.abs().max()) <= 127
        scales = layer.weight_scales.reshape(-1, *[1] * (integers.dim() - 1))
        assert torch.equal(integers * scales, layer.weight)


def test_feedback_brings_outputs_of_other_data_closer() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    mixed = torch.randn(12, 48)
    data = [torch.randn(400, 12) @ mixed + 0.1 * torch.randn(400, 48) for _ in range(4)]
    near, fed = (drafted(net, data[:3], sc.methods.Int4(group=16, feedback=f)).model for f in (False, True))
    assert distance(net, fed, data[3]) < 0.8 * distance(net, near, data[3])


def test_mean_errors_are_taken_up(draft: Draft) -> None:
    x = torch.cat(DATA)

    def outputs(model: nn.Module) -> Tensor:
        found: list[Tensor] = []
        handle = model.get_submodule("one").register_forward_hook(lambda m, a, y: found.append(y))
        with torch.no_grad():
            model(x)
        handle.remove()
        return found[0].mean((0, 2, 3))

    raw = copy.deepcopy(draft.model)
    raw.get_submodule("one").bias.data.copy_(NET.get_submodule("one").bias.data)  # type: ignore[union-attr, operator]
    exact = outputs(NET)
    assert float((outputs(draft.model) - exact).abs().sum()) < 0.5 * float((outputs(raw) - exact).abs().sum())


def test_what_cannot_be_quantised_stays_float_and_says_why(draft: Draft) -> None:
    found = draft.evidence.quantisation
    assert found is not None
    assert found.skipped == {"odd": "it pads with 'reflect', and not with zeros"}
    assert torch.equal(draft.model.get_submodule("odd").weight, NET.get_submodule("odd").weight)  # type: ignore[arg-type]
    skipped = drafted(NET, DATA, sc.Int8(skip=("stem", "he*"))).evidence.quantisation
    assert skipped is not None
    assert set(skipped.skipped) == {"odd", "stem", "head"}
    assert set(found.layers) - set(skipped.layers) == {"stem", "head"}


def test_layers_that_read_one_value_read_it_in_the_same_levels() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.shared = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.q(x) * self.k(x) + self.shared(self.shared(x))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    found = drafted(Twice().eval(), [torch.randn(40, 8)]).evidence.quantisation
    assert found is not None
    assert found.layers["q"].scale == found.layers["k"].scale
    assert "called 2 times" in found.skipped["shared"]


@pytest.mark.parametrize("bits", [7, 8])
def test_bits_are_those_of_what_layers_read(bits: Literal[7, 8]) -> None:
    draft = drafted(NET, DATA, sc.Int8(bits=bits))
    assert draft.evidence.quantisation is not None
    assert {layer.most for layer in draft.evidence.quantisation.layers.values()} == {2**bits - 1}


def test_an_ordinary_module(draft: Draft) -> None:
    x = DATA[0]
    expected = draft.model(x)
    assert torch.equal(pickle.loads(pickle.dumps(draft.model))(x), expected)
    assert torch.equal(copy.deepcopy(draft.model)(x), expected)
    trained = copy.deepcopy(draft.model).train()
    trained(x).sum().backward()
    assert float(trained.get_submodule("stem").weight.grad.abs().sum()) > 0  # type: ignore[union-attr, operator]
    assert trained.get_submodule("stem").weight.shape == (16, 3, 3, 3)  # type: ignore[union-attr]
    assert set(draft.model.state_dict()) - set(NET.state_dict()) == {
        f"{name}.weight_scales" for name in ("stem", "one", "two", "grouped", "last", "fc", "head")
    }


def test_infinities_and_nan_are_read_as_documented(draft: Draft) -> None:
    x = DATA[0][:1].clone()
    x[0, 0, 0, :3] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    low, high = draft.model.get_submodule("stem").levels.reals  # type: ignore[union-attr]
    tame = x.clone()
    tame[0, 0, 0, :3] = torch.tensor([high, low, 0.0])
    assert torch.equal(draft.model(x), draft.model(tame))
    assert bool(draft.model(x).isfinite().all())


def test_the_plan_as_data_makes_the_same_network(draft: Draft) -> None:
    read = plan_from_json(json.loads(json.dumps(plan_to_json(draft.plan))), draft.plan.tensors)
    assert read.edits == draft.plan.edits
    assert torch.equal(apply(NET, read)(DATA[0]), draft.model(DATA[0]))
    assert type(NET.get_submodule("stem")) is nn.Conv2d


@pytest.mark.parametrize(
    ("entry", "value", "told"),
    [
        ("bits", 9, "bits"), ("bits", "8", "bits"), ("levels", [0.0, 0, 255], "levels"), ("group", -1, "group"),
        ("levels", [1.0, 200, 100], "beyond the largest level"), ("levels", [float("inf"), 0, 255], "levels"),
        ("levels", [1.0, 0], "levels"), ("more", 1, "unknown entry"),
    ],
)  # fmt: skip
def test_a_hostile_plan_is_refused(draft: Draft, entry: str, value: Any, told: str) -> None:
    data = plan_to_json(draft.plan)
    data["edits"][0][entry] = value
    with pytest.raises(ArtefactError, match=told):
        plan_from_json(data, draft.plan.tensors)


@pytest.mark.parametrize(
    ("module", "told"), [("norm", "BatchNorm2d"), ("nothing", "no module"), ("one", "twice")]
)
def test_a_plan_for_another_model_is_refused(draft: Draft, module: str, told: str) -> None:
    data = plan_to_json(draft.plan)
    data["edits"][0]["module"] = module
    with pytest.raises(SurgeryError, match=told):
        apply(NET, plan_from_json(data, {}))


def test_units_then_blocks_then_int8_saved_and_loaded(tmp_path: Path) -> None:
    example = DATA[0][:2]
    half = sc.prune(NET, example, method=sc.SNP(), budget=sc.Budget(macs=0.6), calibration=DATA)
    blocks = sc.MicroStructured(block=sc.Block(4, 4), zero=0.5, skip=())
    result = sc.quantise(sc.prune(half, example, method=blocks, calibration=DATA), example, calibration=DATA)
    for name, pattern in result.plan.patterns.items():
        assert pattern.obeyed(tensors_of(result.model)[name])
    result.save(tmp_path / "net")
    loaded = sc.load(tmp_path / "net", NET)
    assert torch.equal(loaded(DATA[0]), result.model(DATA[0]))
    packed = {t.name: t for t in sc.pack(tmp_path / "net", tmp_path / "net.sec").tensors}
    assert {packed[f"{name}.weight"].bits for name in ("stem", "one", "two", "fc")} == {8}
    assert packed["fc.weight"].max_error == 0.0
    assert packed["fc.weight"].bytes < 0.25 * packed["fc.weight"].dense_bytes
    assert torch.equal(sc.load(tmp_path / "net.sec", NET)(DATA[0]), result.model(DATA[0]))
    assert "Rounding moves the outputs by" in str(result.report)
    assert result.recipe["then"][-1]["method"]["name"] == "int8"


def test_four_bits_in_groups_are_of_linear_layers_alone() -> None:
    draft = drafted(NET, DATA, sc.methods.Int4(group=64))
    found = draft.evidence.quantisation
    assert found is not None
    assert set(found.layers) == {"fc", "head"}
    fc = draft.model.get_submodule("fc")
    assert isinstance(fc, QuantisedLinear)
    assert fc.weight_scales.shape == (24, 3)
    assert int(fc.integers().abs().max()) <= 7
    scales = fc.weight_scales.repeat_interleave(64, 1)
    assert torch.equal(fc.integers() * scales, fc.weight)
    assert found.layers["fc"].scale is None
    assert distance(NET, draft.model, DATA[0]) < 0.15
    assert torch.equal(apply(NET, draft.plan)(DATA[0]), draft.model(DATA[0]))


def test_four_bits_of_a_decoder_in_bfloat16() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(64, 96), nn.SiLU(), nn.Linear(96, 32)).eval().bfloat16()
    x = torch.randn(300, 64).bfloat16()
    model = drafted(net, [x], sc.methods.Int4(group=32)).model
    layer = model[0]  # type: ignore[index]
    assert isinstance(layer, QuantisedLinear)
    assert layer.weight.dtype == torch.bfloat16
    reals = layer.integers() * layer.weight_scales.repeat_interleave(32, 1)
    assert torch.equal(reals.bfloat16(), layer.weight)
    assert distance(net, model, x) < 0.12
    skipped = quantisable(net, sc.trace(net, x[:2]), Inputs.of(x[:2])).skipped
    assert skipped["0"] == "its weight is bfloat16 on cpu, not float32 on the CPU"


def test_batches_that_cannot_wait_make_no_difference() -> None:
    case = Case.of(NET, Inputs.of(DATA[0][:2]), calibration=DATA)
    layers = quantisable(NET, case.graph, case.inputs).layers
    waited, again = (
        quantised(case.graph, layers, case.tensors, case.batches, Options(waiting=bytes_))
        for bytes_ in (1 << 31, 0)
    )
    assert waited.layers.keys() == again.layers.keys()
    for name, tensor in waited.tensors.items():
        assert torch.equal(tensor, again.tensors[name])


def test_mistakes_are_told() -> None:
    with pytest.raises(UsageError, match="bits=4"):
        sc.Int8(bits=4)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="group=1"):
        sc.methods.Int4(group=1)
    with pytest.raises(UnknownNameError, match="Did you mean 'stem'"):
        drafted(NET, DATA, sc.Int8(skip=("stam",)))
    with pytest.raises(CalibrationError, match="Int8 looks at data: give calibration"):
        sc.quantise(NET, DATA[0][:2], calibration=None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="No layer can be quantised"):
        drafted(nn.Sequential(nn.Conv1d(3, 4, 3)).eval(), [torch.randn(8, 3, 9)])
    with pytest.raises(CalibrationError, match="not finite"):
        drafted(NET, [torch.full((8, 3, 8, 8), torch.nan)])
