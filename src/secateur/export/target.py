"""Where a pruned network will run: an engine, the widths that it likes, and times that are taken there.

Fewer MACs are not less time everywhere. A target rounds the widths, and times the dense and the pruned network in the
engine's own sessions, in turns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from secateur.ground.copies import copied
from secateur.ground.devices import device_of
from secateur.ground.errors import ExportError
from secateur.ground.inputs import Inputs
from secateur.ground.tensors import tensors_of
from secateur.measure import Comparison
from secateur.measure.latency import compare_calls

from .onnx import session, to_onnx

__all__ = ["Call", "OnnxRuntime", "OpenVINO", "Target", "Torch", "compare_at"]

Call = Callable[[], Any]

CLOCK: Any = field(default=time.perf_counter, kw_only=True, compare=False, repr=False)


@runtime_checkable
class Target(Protocol):
    """An engine that networks are deployed in."""

    @property
    def label(self) -> str:
        """What reports call it."""
        ...

    @property
    def round_to(self) -> int:
        """The multiple of units that its kernels like; 1 if any number will do."""
        ...

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds."""
        ...

    def engine(self, model: nn.Module, inputs: Inputs) -> Call:
        """Return what runs a model once on the inputs there.

        Raises:
            ExportError: the engine is not installed, or does not take the model.
        """
        ...


@dataclass(frozen=True)
class Torch:
    """PyTorch itself, eager, as reports time it anyway; its kernels like widths of eights."""

    round_to: int = 8
    clock: Callable[[], float] = CLOCK

    @property
    def label(self) -> str:
        """What reports call it."""
        return "PyTorch"

    def engine(self, model: nn.Module, inputs: Inputs) -> Call:
        """Return what runs a model once on the inputs."""
        given = inputs.detached()
        network = copied(model, {id(t): t for t in tensors_of(model).values()}).eval()
        device = device_of(model)

        def call() -> Any:
            with torch.inference_mode():
                outputs = given(network)
            if device is not None and device.type not in ("cpu", "meta"):
                torch.accelerator.synchronize(device)  # whose calls return before they are done
            return outputs

        return call


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime on the processor, with torch's number of threads; its convolutions take 16 channels together."""

    round_to: int = 16
    clock: Callable[[], float] = CLOCK

    @property
    def label(self) -> str:
        """What reports call it."""
        return "ONNX Runtime"

    def engine(self, model: nn.Module, inputs: Inputs) -> Call:
        """Return a session on the model's ONNX file, which is compared with PyTorch first.

        Raises:
            ExportError: onnx or onnxruntime is not installed, or the model cannot be written.
        """
        with tempfile.TemporaryDirectory() as folder:
            run = session(_written(model, inputs, Path(folder)))
        given = _arrays(inputs, [entry.name for entry in run.get_inputs()], self.label)
        return lambda: run.run(None, given)


@dataclass(frozen=True)
class OpenVINO:
    """OpenVINO on the processor, in float32, with torch's number of threads; its kernels take 16 channels together."""

    round_to: int = 16
    clock: Callable[[], float] = CLOCK

    @property
    def label(self) -> str:
        """What reports call it."""
        return "OpenVINO"

    def engine(self, model: nn.Module, inputs: Inputs) -> Call:
        """Return a request of the model, compiled from its ONNX file.

        Raises:
            ExportError: onnx, onnxruntime or openvino is not installed, or the model cannot be written.
        """
        try:
            import openvino
        except ImportError as error:
            raise ExportError(
                f"This target needs openvino, which cannot be imported ({error}): pip install openvino"
            ) from None
        core = openvino.Core()
        options = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        with tempfile.TemporaryDirectory() as folder:
            compiled = core.compile_model(
                core.read_model(_written(model, inputs, Path(folder))), "CPU", options
            )
        given = _arrays(inputs, [entry.any_name for entry in compiled.inputs], self.label)
        request = compiled.create_infer_request()
        return lambda: request.infer(given)


def compare_at(target: Target, dense: Call, pruned: Call, batch: int) -> Comparison:
    """Time two networks in the target's engine, in turns."""
    return compare_calls(dense, pruned, batch=batch, clock=target.clock)


def _written(model: nn.Module, inputs: Inputs, folder: Path) -> Path:
    example: Any = inputs.kwargs if inputs.kwargs else inputs.args
    return to_onnx(model, example, folder / "model.onnx").path


def _arrays(inputs: Inputs, names: list[str], label: str) -> dict[str, Any]:
    """Return the inputs as arrays by the names that the file has for them."""
    tensors = {name: x for name, x in inputs.kwargs.items() if name in names and isinstance(x, Tensor)}
    for name, x in zip([n for n in names if n not in tensors], inputs.args):
        if isinstance(x, Tensor):
            tensors[name] = x
    if tensors.keys() != set(names):
        raise ExportError(
            f"{label} wants the inputs {', '.join(names)}, which are no single tensors among the example inputs: time "
            "the file of secateur.export.to_onnx there yourself."
        )
    return {name: x.numpy(force=True) for name, x in tensors.items()}
