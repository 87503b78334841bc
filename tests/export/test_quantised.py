"""Quantised networks in other forms: QDQ pairs in ONNX with the very integers, plain operators in .pt2 files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from secateur.export import to_exported_program, to_onnx
from secateur.methods import Int8
from tests.helpers.quantised import drafted, pictures

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

NET, DATA = pictures()


@pytest.mark.parametrize("bits", [7, 8])
def test_onnx_runtime_computes_in_the_same_integers(tmp_path: Path, bits: Literal[7, 8]) -> None:
    model = drafted(NET, DATA, Int8(bits=bits)).model
    written = to_onnx(model, DATA[0][:2], tmp_path / "net.onnx")
    assert written.free == (0,)
    assert written.max_difference < 0.02
    graph = onnx.load(written.path).graph
    stored = {i.name: torch.from_numpy(onnx.numpy_helper.to_array(i).copy()) for i in graph.initializer}
    for name in ("stem", "one", "grouped", "last", "head"):
        layer = model.get_submodule(name)
        integers = stored[f"{name}.weight_integers"]
        assert integers.dtype == torch.int8
        signs = torch.ones(len(integers))
        if name == "stem":  # norms with negative gains are folded into it
            signs = torch.where(model.get_submodule("norm").weight < 0, -1, 1)  # type: ignore[operator, call-overload]
        wanted = layer.integers() * signs.reshape(-1, *[1] * (integers.dim() - 1))  # type: ignore[operator]
        assert torch.equal(integers.float(), wanted.float())
    names = [n.op_type for n in graph.node]
    assert names.count("QuantizeLinear") == 7
    assert names.count("Clip") == (7 if bits == 7 else 0)
    # Without its own rewriting the engine gives what torch simulates, sums in another order apart.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    run = ort.InferenceSession(str(written.path), options, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(run.run(None, {run.get_inputs()[0].name: DATA[1].numpy()})[0])
    with torch.no_grad():
        expected = model(DATA[1])
    assert float((found - expected).abs().max()) < 0.01 * float(expected.abs().max())


def test_an_exported_program_runs_without_the_operator(tmp_path: Path) -> None:
    model = drafted(NET, DATA).model
    written = to_exported_program(model, DATA[0][:2], tmp_path / "net.pt2")
    program = torch.export.load(written.path)
    assert not any("secateur" in str(node.target) for node in program.graph.nodes)
    with torch.no_grad():
        assert torch.equal(program.module()(DATA[1]), model(DATA[1]))
