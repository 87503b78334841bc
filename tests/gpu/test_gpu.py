"""The runs of tests/devices on a GPU: make gpu. Elsewhere they are skipped, and say so."""

from __future__ import annotations

import pytest
import torch
from on_device import BATCHES, RUNS, inputs, on, run
from torch import nn

import secateur as sc
from secateur.graph import trace
from secateur.measure import compare_latency
from secateur.statistics import collect

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="there is no GPU: run make gpu where there is one"
    ),
]
CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_there_is_the_run_here(name: str) -> None:
    found, expected = run(name, on(CUDA)), run(name, on(torch.device("cpu")))
    assert {p.device for p in found.model.parameters()} == {CUDA}
    assert found.report.kept == expected.report.kept
    x = inputs(3)
    close = 0.05 if found.trained else 1e-3
    torch.testing.assert_close(found.model(x.to(CUDA)).cpu(), expected.model(x), rtol=close, atol=close)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["snp", "snp, one pass", "taylor", "unified", "magnitude"])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    found, wide = run(name, on(CUDA, dtype), dtype), run(name, on(CUDA))
    x = inputs(3).to(CUDA)
    expected = wide.model(x).detach()
    assert {p.dtype for p in found.model.parameters()} == {dtype}
    assert float((found.model(x.to(dtype)).float() - expected).norm() / expected.norm()) < 0.1


def test_moments_are_those_of_float64() -> None:
    """Products in float32, summed in float64, without TF32: against all of it in float64."""
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        wide = collect_on(on(CUDA, torch.float64), torch.float64)
        found = collect_on(on(CUDA), torch.float32)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    for node, site in found.items():
        scale = float(wide[node].diagonal().mean())
        assert float((site - wide[node]).abs().max()) < 1e-5 * scale


def collect_on(model: nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    from secateur.ground.modes import exact_products

    graph = trace(model, inputs()[:4].to(dtype))
    with exact_products():
        statistics = collect(graph, graph.groups, [x.to(dtype) for x in BATCHES])
    return {node: statistics.sites[node].gram for node in statistics.sites}


def test_latency_is_that_of_the_device() -> None:
    model = nn.Sequential(*(nn.Linear(4096, 4096) for _ in range(8))).to(CUDA)
    found = compare_latency(model, model, torch.randn(4096, 4096), rounds=5, seconds=0)
    # 8 products of 2 * 4096^3: no GPU does a thousand teraflops in float32, and launching them takes a tenth of this.
    assert found.dense.median_ms > 8 * 2 * 4096**3 / 1e15 * 1000


def test_short_memory_leaves_the_moments_to_the_processor() -> None:
    model = nn.Sequential(nn.Linear(64, 8192), nn.ReLU(), nn.Linear(8192, 64)).to(CUDA)
    x = torch.randn(256, 64)
    half = sc.Budget(macs=0.5)
    whole = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(CUDA) + 2**30) / whole)
    try:
        with pytest.warns(UserWarning, match="kept and solved by the processor"):
            result = sc.prune(model, x[:4], method=sc.SNP(), budget=half, calibration=[x], progress=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert {p.device for p in result.model.parameters()} == {CUDA}
