"""Single int8 layers, blocks against dense engines: python benchmarks/int8_layers.py [--layers ...] [--minutes 9]

Each row times one layer with random weights, the same for all, in six ways in turns, one thread: own int8 blocks (bytes
to bytes, the Python call included), ONNX Runtime and OpenVINO on the dense layer, statically quantised by ONNX
Runtime's tools, bytes to bytes or floats to floats, whichever is faster, the fastest dense fp32 engine, own fp32 blocks
of 8x1 at the same sparsity, and own int8 blocks a second time: the control. Times are lower quartiles. Random masks say
nothing about accuracy. Rows are appended to results/int8_layers.csv, 4x4 and 8x4 at 80 % of all layers first; those
that are there are skipped. The machine has to be quiet: OpenVINO's threads suffer most where it is not.
`SECATEUR_KERNELS=avx2` forces an instruction set on the own kernels, and on nobody else.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import openvino
import torch
from dense_engines import Call, dense_engines, onnx_bytes, onnxruntime_engine
from onnxruntime import quantization
from pairs import best
from runtime_layers import CASES, Case, masked, sparse_call
from table import Table
from torch import Tensor, nn

from secateur.runtime import kernels
from secateur.runtime.int8 import Int8SparseConv2d, Int8SparseLinear, Int8Tensor, Levels
from secateur.runtime.modules import window_of

KEYS = ("layer", "block", "sparsity", "batch", "threads", "isa")
TABLE = Table(
    Path("results/int8_layers.csv"),
    KEYS,
    (*KEYS, "int8_blocks_us", "onnxruntime_int8_us", "openvino_int8_us", "best_dense_engine", "best_dense_us",
     "fp32_8x1_us", "vs_dense_int8", "vs_dense_fp32", "vs_fp32_8x1", "aa_control", "commit", "cpu"),
)  # fmt: skip
SPARSITIES = (0.8, 0.7, 0.9)
BLOCKS = ("4x4", "8x4", "16x4")
TELLING = (("4x4", 0.8), ("8x4", 0.8))
OWN, CONTROL = "int8_blocks", "again"


def levels_of(x: Tensor, most: int) -> Levels:
    """Return levels from the smallest to the largest real, 0 among them."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = max(high - low, 1e-6) / most
    return Levels(scale, round(-low / scale), most)


def int8_call(layer: nn.Linear | nn.Conv2d, block: str, x: Tensor) -> Call:
    """Return the layer in the int8 kernels, bytes to bytes, and see that it computes what the float layer does.

    Seven bits where that is what the instruction set takes at full speed.
    """
    most = (
        127
        if kernels().handle.secateur_int8_wide(255) and not kernels().handle.secateur_int8_wide(127)
        else 255
    )
    weight, wanted = layer.weight.detach(), layer(x)
    scales = weight.flatten(1).abs().amax(1).clamp_min(1e-8) / 127
    whole = (weight / scales.view(-1, *[1] * (weight.dim() - 1))).round().to(torch.int8)
    given, to = levels_of(x, most), levels_of(wanted, most)
    height, bias = int(block.split("x")[0]), layer.bias
    module: nn.Module
    if isinstance(layer, nn.Conv2d):
        bytes_ = Int8Tensor.of_images(x, given)
        module = Int8SparseConv2d.of(
            whole, scales, window_of(layer), x=given, y=to, bias=bias, groups=layer.groups, height=height
        )
    else:
        bytes_ = Int8Tensor.of_features(x, given)
        module = Int8SparseLinear.of(whole, scales, x=given, y=to, bias=bias, height=height)
    error = (module(bytes_).reals() - wanted).pow(2).mean().sqrt() / wanted.std()
    assert float(error) < (0.04 if most == 255 else 0.06), float(error)
    return lambda: module(bytes_)


def dense_int8_engines(model: nn.Module, inputs: Mapping[str, Tensor], threads: int) -> dict[str, Call]:
    """Return ONNX Runtime and OpenVINO on a statically quantised layer, between bytes or floats as suits each best."""
    between_floats, between_bytes, levels = _quantised(model, inputs)
    name = next(iter(inputs))
    bytes_ = {name: levels.of(inputs[name]).numpy()}
    forms = ((between_bytes, bytes_), (between_floats, {name: inputs[name].numpy()}))
    found: dict[str, Call] = {}
    for label, engine in (("onnxruntime_int8", onnxruntime_engine), ("openvino_int8", _openvino)):
        ways = {str(i): engine(exported, arrays, threads) for i, (exported, arrays) in enumerate(forms)}
        for call in ways.values():
            call()
        found[label] = ways[best(ways, 0.2)]
    return found


def _openvino(exported: bytes, arrays: Mapping[str, Any], threads: int) -> Call:
    core = openvino.Core()
    options: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
    }  # fmt: skip
    request = core.compile_model(core.read_model(exported), "CPU", options).create_infer_request()
    for name, x in arrays.items():
        request.set_tensor(name, openvino.Tensor(x, shared_memory=True))
    infer: Call = request.infer
    return infer


def _quantised(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[bytes, bytes, Levels]:
    """Return a quantised model of one layer between floats, the same between bytes, and the levels of its input."""

    class Once(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{name: x.numpy() for name, x in inputs.items()}]

        def get_next(self) -> dict[str, Any] | None:
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as scratch:
        dense, prepared, int8 = (Path(scratch) / f"{name}.onnx" for name in ("dense", "prepared", "int8"))
        dense.write_bytes(onnx_bytes(model, inputs))
        quantization.shape_inference.quant_pre_process(dense, prepared)
        quantization.quantize_static(
            prepared, int8, Once(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
        between_floats = int8.read_bytes()
        graph = (found := onnx.load(int8)).graph
    # The quantisation in front and its inverse behind are left out.
    first = next(n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == graph.input[0].name)
    last = next(
        n for n in graph.node if n.op_type == "DequantizeLinear" and n.output[0] == graph.output[0].name
    )
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in graph.initializer}
    levels = Levels(float(constants[first.input[1]]), int(constants[first.input[2]]))
    graph.node.remove(first)
    graph.node.remove(last)
    for node in graph.node:
        for i, given in enumerate(node.input):
            if given == first.output[0]:
                node.input[i] = graph.input[0].name
    graph.output[0].name = last.input[0]
    for value in (graph.input[0], graph.output[0]):
        value.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    return between_floats, found.SerializeToString(), levels


def in_turns(calls: Mapping[str, Call], rounds: int, seconds: float) -> dict[str, float]:
    """Return the lower quartiles, in seconds, of calls in turns; the order is turned round each time."""
    repeats = {name: max(1, round(1e-3 / _time(call, 3))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    begin, names = time.perf_counter(), list(calls)
    while len(times[OWN]) < rounds or time.perf_counter() - begin < seconds:
        for name in names if len(times[OWN]) % 2 else reversed(names):
            times[name].append(_time(calls[name], repeats[name]))
    return {name: statistics.quantiles(t, n=4, method="inclusive")[0] for name, t in times.items()}


def _time(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


@torch.inference_mode()
def run_case(
    case: Case, cells: Sequence[tuple[str, float]], table: Table, options: argparse.Namespace, until: float
) -> None:
    """Append the missing ones of a layer's rows, as long as there is time."""
    name = {"layer": case.name, "batch": str(case.batch), "threads": "1", "isa": kernels().instruction_set}
    missing = []
    for block, sparsity in cells:
        keys = name | {"block": block, "sparsity": str(sparsity)}
        if tuple(keys[k] for k in KEYS) not in table.present():
            missing.append((block, sparsity, keys))
    if not missing or time.monotonic() > until:
        return
    x = case.input()
    torch.manual_seed(0)
    with torch.inference_mode(False), torch.no_grad():
        layer = case.make()
        engines = dense_engines(layer, {"x": x}, 1)
        int8 = dense_int8_engines(layer, {"x": x}, 1)
    winner = best(engines)
    for block, sparsity, keys in missing:
        if time.monotonic() > until:
            return
        sparse = {}
        for kind in (block, "8x1"):
            torch.manual_seed(0)
            with torch.inference_mode(False), torch.no_grad():
                masked(layer := case.make(), kind, sparsity)
                sparse[kind] = (int8_call if kind == block else sparse_call)(layer, kind, x)
        calls = {
            OWN: sparse[block],
            **int8,
            "dense": engines[winner],
            "8x1": sparse["8x1"],
            CONTROL: sparse[block],
        }
        found = in_turns(calls, options.rounds, options.seconds)
        own = found[OWN]
        faster = min(found["onnxruntime_int8"], found["openvino_int8"])
        table.append(keys | {
            "int8_blocks_us": own * 1e6, "onnxruntime_int8_us": found["onnxruntime_int8"] * 1e6,
            "openvino_int8_us": found["openvino_int8"] * 1e6, "best_dense_engine": winner,
            "best_dense_us": found["dense"] * 1e6, "fp32_8x1_us": found["8x1"] * 1e6, "vs_dense_int8": faster / own,
            "vs_dense_fp32": found["dense"] / own, "vs_fp32_8x1": found["8x1"] / own,
            "aa_control": found[CONTROL] / own,
        } | table.provenance("python benchmarks/int8_layers.py"))  # fmt: skip
        print(
            f"{case.name} batch {case.batch} {block} {sparsity:.0%}: {own * 1e6:.0f} us, "
            f"{faster / own:.2f} x dense int8, "
            f"{found['dense'] / own:.2f} x {winner}, {found['8x1'] / own:.2f} x fp32 8x1 "
            f"(control {found[CONTROL] / own:.2f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", nargs="+", help="parts of layers' names (default: all)")
    parser.add_argument(
        "--minutes", type=float, default=9, help="stop at a row's end after so long; run it again"
    )
    parser.add_argument("--rounds", type=int, default=15, help="turns at least")
    parser.add_argument("--seconds", type=float, default=1.5, help="of turns at least")
    parser.add_argument("--output", type=Path, default=TABLE.path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(options.output, TABLE.keys, TABLE.columns)
    until = time.monotonic() + 60 * options.minutes
    cases = [
        case
        for case in CASES
        if not options.layers or any(part in f"{case.name} batch {case.batch}" for part in options.layers)
    ]
    for case in cases:
        run_case(case, TELLING, table, options, until)
    for case in cases:
        run_case(case, [(block, s) for s in SPARSITIES for block in BLOCKS], table, options, until)


if __name__ == "__main__":
    main()
