"""Everything on a device that is not the processor: the stand-in, with which tensors of the processor do not mix."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from on_device import BATCHES, RUNS, Branched, inputs, labelled, on, run
from standin import device, limited, without_float64
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.ground.devices import moments_on_host
from secateur.measure import compare_latency

HALF = (torch.bfloat16, torch.float16)


@pytest.fixture(scope="module")
def there() -> torch.device:
    return device()


def kept(result: sc.Result) -> dict[str, tuple[int, int]]:
    return dict(result.report.kept)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_there_is_the_run_here(name: str, there: torch.device) -> None:
    model = on(there)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found, expected = run(name, model), run(name, on(torch.device("cpu")))
    assert {p.device for p in found.model.parameters()} == {there}
    assert kept(found) == kept(expected)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert {t.device.type for t in found.plan.tensors.values()} <= {"cpu"}
    x = inputs(3)
    close = 0.05 if found.trained else 1e-3  # steps of training amplify how products are rounded
    torch.testing.assert_close(found.model(x.to(there)).cpu(), expected.model(x), rtol=close, atol=close)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", ["snp", "snp, one pass", "taylor", "unified", "magnitude"])
def test_half_precision(name: str, dtype: torch.dtype, there: torch.device) -> None:
    found = run(name, on(there, dtype), dtype)
    wide = run(name, on(there))
    x = inputs(3).to(there)
    assert {p.dtype for p in found.model.parameters()} == {dtype}
    expected = wide.model(x).detach()
    assert float((found.model(x.to(dtype)).float() - expected).norm() / expected.norm()) < 0.1


def test_without_float64_moments_are_the_processors(there: torch.device) -> None:
    model, expected = on(there), run("snp", on(torch.device("cpu")))
    for name in ("snp", "snp, one pass", "taylor", "unified", "decay"):
        with without_float64():
            found = run(name, model)
        assert {p.device for p in found.model.parameters()} == {there}
        if name == "snp":
            assert kept(found) == kept(expected)


def test_short_memory_leaves_the_moments_to_the_processor(there: torch.device) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 384), nn.ReLU(), nn.Linear(384, 384), nn.ReLU(), nn.Linear(384, 4)).to(
        there
    )
    x = torch.randn(64, 8)
    moments = 2 * 3 * 8 * 384**2

    def halved() -> sc.Result:
        half = sc.Budget(macs=0.5)
        return sc.prune(model, x[:4], method=sc.SNP(), budget=half, calibration=x.split(16), progress=False)

    expected = halved()
    with (
        limited(moments // 2),
        pytest.warns(UserWarning, match="moments are kept and solved by the processor"),
    ):
        found = halved()
    assert kept(found) == kept(expected)
    torch.testing.assert_close(found.model(x.to(there)), expected.model(x.to(there)))
    with limited(1000), pytest.raises(sc.SecateurError, match="smaller batches"):
        halved()


def test_moments_on_the_host_are_asked_for(there: torch.device) -> None:
    with moments_on_host():
        found = run("snp", on(there))
    assert kept(found) == kept(run("snp", on(there)))


def test_saved_there_loaded_anywhere(there: torch.device, tmp_path: Path) -> None:
    result = run("snp", on(there))
    result.save(tmp_path / "half")
    x = inputs(3)
    expected = result.model(x.to(there)).cpu()
    here = sc.load(tmp_path / "half", Branched)
    assert {p.device.type for p in here.parameters()} == {"cpu"}
    torch.testing.assert_close(here(x), expected)
    again = sc.load(tmp_path / "half", Branched, device=there)
    assert {p.device for p in again.parameters()} == {there}
    assert torch.equal(again(x.to(there)).cpu(), expected)


def test_trained_on_there(there: torch.device) -> None:
    result = run("snp", on(there))
    tuned = sc.finetune(result, labelled(), loss=F.cross_entropy, epochs=1)
    assert {p.device for p in tuned.parameters()} == {there}
    assert any(
        not torch.equal(a, b) for a, b in zip(tuned.parameters(), result.model.parameters(), strict=True)
    )


def test_exported_and_compiled_from_there(there: torch.device, tmp_path: Path) -> None:
    result = run("blocks", on(there))
    x = inputs(3)
    expected = result.model(x.to(there)).cpu()
    sc.export.to_onnx(result, x[:2], tmp_path / "net.onnx")
    fast = sc.runtime.compile(result.model, x[:2], folder=tmp_path)
    torch.testing.assert_close(fast(x), expected, rtol=1e-3, atol=1e-4)
    assert {p.device for p in result.model.parameters()} == {there}


def test_a_latency_is_measured_there(there: torch.device) -> None:
    model = on(there)
    found = compare_latency(model, model, inputs()[:4], rounds=3, seconds=0)
    assert found.dense.median_ms > 0


class Split(nn.Module):
    """Two layers on two devices, as device maps make them."""

    def __init__(self, there: torch.device) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4).to(there)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(x).relu().to(self.last.weight.device))
        return out


def test_a_model_on_two_devices(there: torch.device) -> None:
    torch.manual_seed(0)
    model = Split(there).eval()
    x = torch.randn(64, 8)
    result = sc.prune(
        model, x[:2], method=sc.SNP(), budget=sc.Budget(macs=0.5), calibration=[x], progress=False
    )
    assert result.model.first.weight.device.type == "cpu"
    assert result.model.last.weight.device == there
    assert result.model(x).shape == (64, 4)


def test_values_that_are_not_there_are_refused() -> None:
    model = Branched().to("meta")
    with pytest.raises(sc.SecateurError, match=r"first\.weight is on the meta device"):
        sc.prune(
            model,
            inputs()[:2],
            method=sc.SNP(),
            budget=sc.Budget(macs=0.5),
            calibration=[*BATCHES],
            progress=False,
        )
