"""The dense engines that sparse kernels are timed against, each as a function of no arguments."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
from torch import Tensor, nn

Call = Callable[[], Any]

__all__ = ["DENSE", "Call", "dense_engines", "int8_engine", "onnx_bytes"]

DENSE = ("torch", "torch-channels-last", "inductor", "onnxruntime", "openvino")


def dense_engines(model: nn.Module, inputs: Mapping[str, Tensor], threads: int) -> dict[str, Call]:
    """Return a model on its inputs in every engine that takes it, fp32, with so many threads.

    All are compiled and were run once. torch's own engines use torch's number of threads, which the caller sets.
    """
    values = tuple(inputs.values())
    exported = onnx_bytes(model, inputs)
    arrays = {name: np.ascontiguousarray(x.numpy()) for name, x in inputs.items()}

    def channels_last() -> Call:
        last = model_like(model).to(memory_format=torch.channels_last)
        laid = tuple(x.to(memory_format=torch.channels_last) if x.dim() == 4 else x for x in values)
        return lambda: last(*laid)

    def inductor() -> Call:
        torch._inductor.config.freezing = True  # weights are constants, packed ahead
        torch._dynamo.reset()
        compiled = torch.compile(model_like(model))
        return lambda: compiled(*values)

    makers: dict[str, Callable[[], Call]] = {
        "torch": lambda: lambda: model(*values),
        "torch-channels-last": channels_last,
        "inductor": inductor,
        "onnxruntime": lambda: onnxruntime_engine(exported, arrays, threads),
        "openvino": lambda: openvino_engine(exported, arrays, threads),
    }
    if all(x.dim() != 4 for x in values):
        del makers["torch-channels-last"]
    found: dict[str, Call] = {}
    for name, make in makers.items():
        try:
            call = make()
            call()
        except (
            Exception
        ) as error:  # another engine's error is no reason to lose the row; the row names the best one
            print(f"{name} does not take this model: {error}", flush=True)
        else:
            found[name] = call
    return found


def model_like(model: nn.Module) -> nn.Module:
    """Return a copy, so that one engine's memory layout is not another's."""
    import copy

    return copy.deepcopy(model)


def onnx_bytes(model: nn.Module, inputs: Mapping[str, Tensor]) -> bytes:
    """Return the model as ONNX, its shapes fixed."""
    buffer = io.BytesIO()
    torch.onnx.export(
        model,
        tuple(inputs.values()),
        buffer,  # type: ignore[arg-type]
        input_names=list(inputs),
        output_names=["y"],
        opset_version=17,
        dynamo=False,
    )
    return buffer.getvalue()


def onnxruntime_engine(exported: bytes, arrays: Mapping[str, Any], threads: int) -> Call:
    """Return a session whose inputs and outputs are bound: nothing is copied or allocated in a run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads > 1 else "1")
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(x) for name, x in arrays.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    outputs = session.run(None, dict(arrays))
    kept = [onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(y)) for y in outputs]
    for info, value in zip(session.get_outputs(), kept, strict=True):
        binding.bind_ortvalue_output(info.name, value)
    return lambda: session.run_with_iobinding(binding)


def openvino_engine(exported: bytes, arrays: Mapping[str, Any], threads: int) -> Call:
    """Return an inference request on shared memory, in fp32 (its default on such a processor is bfloat16)."""
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(io.BytesIO(exported)),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    request = compiled.create_infer_request()
    for name, x in arrays.items():
        request.set_tensor(name, openvino.Tensor(x, shared_memory=True))
    infer: Call = request.infer
    return infer


def int8_engine(model: nn.Module, inputs: Mapping[str, Tensor], threads: int) -> Call:
    """Return ONNX Runtime on statically quantised int8 weights and activations, calibrated on the inputs themselves."""
    import tempfile
    from pathlib import Path

    from onnxruntime import quantization

    class Once(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{name: x.numpy() for name, x in inputs.items()}]

        def get_next(self) -> dict[str, Any] | None:
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as scratch:
        dense, int8 = Path(scratch) / "dense.onnx", Path(scratch) / "int8.onnx"
        dense.write_bytes(onnx_bytes(model, inputs))
        prepared = Path(scratch) / "prepared.onnx"
        quantization.shape_inference.quant_pre_process(dense, prepared)
        quantization.quantize_static(
            prepared, int8, Once(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
        exported = int8.read_bytes()
    arrays = {name: np.ascontiguousarray(x.numpy()) for name, x in inputs.items()}
    return onnxruntime_engine(exported, arrays, threads)
