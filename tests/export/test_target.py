"""Targets: widths that an engine likes, times that are taken there, and a word where they did not fall."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.export.target import Call, OnnxRuntime, OpenVINO, Target, Torch
from secateur.ground.errors import ExportError
from secateur.ground.inputs import Inputs
from secateur.recipes import parse_recipe
from secateur.report.read import report_from_json

INPUTS = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Conv2d(40, 40, 3), nn.ReLU(), nn.Flatten(), nn.Linear(640, 4)
    ).eval()


@dataclass(frozen=True)
class Device:
    """An engine with a time of its own: each network takes as many seconds as `takes` says of its widths."""

    takes: Callable[[int], float]
    round_to: int = 8
    now: list[float] = field(default_factory=lambda: [0.0], compare=False)
    label: str = "a device"

    def clock(self) -> float:
        return self.now[0]

    def engine(self, model: nn.Module, inputs: Inputs) -> Call:
        width = model[0].out_channels  # type: ignore[union-attr,index]

        def call() -> None:
            self.now[0] += self.takes(width)

        return call


def prune(target: Target, **options: object) -> sc.Result:
    return sc.prune(
        build(),
        INPUTS[:2],
        method=sc.Random(),
        budget=sc.Budget(macs=0.6),
        calibration=[INPUTS],
        target=target,
        progress=False,
        **options,  # type: ignore[arg-type]
    )


def test_widths_are_rounded_and_times_are_of_the_engine() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = prune(Device(lambda width: width / 10))
    widths = [m.out_channels for m in result.model.modules() if isinstance(m, nn.Conv2d)]
    assert all(width % 8 == 0 for width in widths)
    assert min(widths) < 40
    found = result.report.deployed
    assert found is not None
    assert (found.engine, found.round_to, found.latency.batch) == ("a device", 8, 2)
    assert found.latency.ratio == pytest.approx(widths[0] / 40)
    assert result.report.ratios()["target"] == found.latency.ratio
    assert "latency in a device, ms" in str(result.report)
    again = report_from_json(result.report.to_json(), {})
    assert again.deployed == found


def test_time_that_did_not_fall_is_told() -> None:
    odd = Device(lambda width: 1.0 if width % 16 == 0 or width == 40 else 1.4, round_to=16)
    with pytest.warns(
        UserWarning, match=r"^MACs 0\.\d\d, but 1\.40 times dense in a device at batch 2: .*round_to=16"
    ):
        result = prune(odd, limits=sc.Limits(round_to=5))
    assert result.report.deployed is not None
    assert result.report.deployed.round_to == 5
    assert "Warning: MACs 0." in str(result.report)
    with pytest.warns(UserWarning, match="1.00 times dense in a device .*latency budget"):
        prune(Device(lambda width: 1.0))


def test_methods_that_keep_shapes_are_timed_too() -> None:
    result = sc.prune(
        build(),
        INPUTS[:2],
        method=sc.MicroStructured(zero=0.5),
        target=Device(lambda width: 1.0),
        progress=False,
    )
    assert result.report.deployed is not None


@pytest.mark.parametrize("target", [Torch(), OnnxRuntime(), OpenVINO()])
def test_engines_run_the_network(target: Target) -> None:
    if isinstance(target, OpenVINO):
        pytest.importorskip("openvino")
    model = build()
    call = target.engine(model, Inputs.of(INPUTS[:2]))
    found = call()
    if isinstance(target, Torch):
        assert torch.equal(found, model(INPUTS[:2]))
    else:
        (values,) = found if isinstance(found, list) else found.values()
        assert torch.allclose(torch.as_tensor(values), model(INPUTS[:2]), atol=1e-4)


def test_inputs_by_keyword_reach_the_engine() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.first(x) + 2 * self.first(y)

    x, y = torch.randn(2, 2, 4)
    model = Sum().eval()
    for inputs in (Inputs.of({"y": y, "x": x}), Inputs.of((x, y))):
        (found,) = OnnxRuntime().engine(model, inputs)()
        assert torch.allclose(torch.as_tensor(found), model(x, y), atol=1e-5)


def test_an_engine_that_is_missing_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ExportError, match="pip install openvino"):
        prune(OpenVINO(), evaluate=lambda model: itertools.count().__next__() / 0)


def test_recipes_name_targets() -> None:
    data = {"model": "zoo:lenet5", "data": "mnist", "budget": {"macs": 0.5}}
    assert parse_recipe(data | {"target": "onnxruntime"}).target == OnnxRuntime()
    assert parse_recipe(data | {"target": {"name": "openvino", "round_to": 8}}).target == OpenVINO(8)
