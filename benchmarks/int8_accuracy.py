"""What int8 costs in accuracy, measured: python benchmarks/int8_accuracy.py [--models ...] [--budgets ...]

Every cell is one network, dense (budget 1) or pruned by SNP to a share of its MACs, then quantised by one engine on the
same 1,000 unlabelled training images; cells that are in results/int8_accuracy.csv already are skipped. `acc_float` is
the accuracy that it has in float32. "onnxruntime" is its own static quantisation (a scale for each output of a weight,
uint8 activations, ranges by its default and by entropy), run by ONNX Runtime; "secateur" is run by torch.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from table import Table
from torch import Tensor, nn

import secateur as sc
from secateur.data import ImageData, calibration, load_images
from secateur.export.onnx import session
from secateur.measure import batches, top1
from secateur.zoo import pretrained

MODELS = {"resnet20-cifar10": "cifar10", "vgg16bn-quarter-cifar10": "cifar10"}
IMAGES = 1_000
TABLE = Table(
    Path("results/int8_accuracy.csv"),
    ("model", "budget", "method", "variant", "seed", "n_calibration"),
    ("model", "dataset", "method", "variant", "budget", "seed", "n_calibration", "acc_dense", "acc_float",
     "acc_int8", "output_error", "quantised", "skipped", "seconds", "commit", "torch", "cpu", "threads", "command"),
)  # fmt: skip
OWN = {
    "int8": sc.Int8(),
    "int8, 7-bit inputs": sc.Int8(bits=7),
    "int8, rounded to nearest": sc.Int8(feedback=False),
}
RUNTIME = {"minmax": "MinMax", "entropy": "Entropy"}


def main() -> None:
    """Append the missing cells."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--budgets", nargs="+", type=float, default=[1.0, 0.5])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    for name in options.models:
        data = load_images(MODELS[name])
        for seed in options.seeds:
            for budget in options.budgets:
                run(name, data, budget, seed)


def run(name: str, data: ImageData, budget: float, seed: int) -> None:
    """Quantise one network by all engines that have no row yet."""
    shared = {"model": name, "budget": f"{budget:g}", "seed": str(seed), "n_calibration": str(IMAGES)}
    cells: list[tuple[str, str]] = [("secateur", v) for v in OWN] + [("onnxruntime", v) for v in RUNTIME]
    present = TABLE.present()

    def missing(method: str, variant: str) -> bool:
        keys = shared | {"method": method, "variant": variant}
        return tuple(keys[k] for k in TABLE.keys) not in present

    wanted = [cell for cell in cells if missing(*cell)]
    if not wanted:
        return
    dense, example = pretrained(name), data.normalise(data.test_x[:16])
    images = calibration(data, IMAGES, seed).split(100)
    result: nn.Module | sc.Result = dense
    if budget < 1:
        result = sc.prune(
            dense, example, method=sc.SNP(), budget=sc.Budget(macs=budget), calibration=images, seed=seed
        )
    network = result.model if isinstance(result, sc.Result) else result
    test = data.normalise(data.test_x)

    def accuracy(model: Callable[[Tensor], Tensor]) -> float:
        return top1(model, batches(test, data.test_y, 100))  # type: ignore[arg-type]

    floats = {"acc_dense": accuracy(dense), "acc_float": accuracy(network)}
    command = f"python benchmarks/int8_accuracy.py --models {name} --budgets {budget:g} --seeds {seed}"
    for method, variant in wanted:
        start = time.perf_counter()
        found = (
            _own(result, example, images, variant, seed)
            if method == "secateur"
            else _runtime(network, example, images, RUNTIME[variant])
        )
        seconds = time.perf_counter() - start
        model, about = found
        score = accuracy(model)
        TABLE.append(
            shared | {"method": method, "variant": variant, "dataset": data.name, "acc_int8": score,
                      "seconds": seconds} | floats | about | TABLE.provenance(command)
        )  # fmt: skip
        print(
            f"{name} macs {budget:g} {method} {variant}: {floats['acc_float']:.4f} -> {score:.4f}", flush=True
        )


def _own(
    given: nn.Module | sc.Result, example: Tensor, images: Iterable[Tensor], variant: str, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    result = sc.quantise(given, example, calibration=images, method=OWN[variant], seed=seed)
    about = result.report.quantisation
    assert about is not None
    told = {"output_error": about.error, "quantised": len(about.layers), "skipped": len(about.skipped)}
    return copy.deepcopy(result.model).to(memory_format=torch.channels_last), told


class _Session(nn.Module):
    """An ONNX Runtime session, called as a module."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.run = session(path)
        self.input = self.run.get_inputs()[0].name

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.run.run(None, {self.input: x.numpy()})[0])


def _runtime(
    model: nn.Module, example: Tensor, images: Iterable[Tensor], calibrate: str
) -> tuple[nn.Module, dict[str, Any]]:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        plain, clean, written = (Path(folder) / f"{n}.onnx" for n in ("plain", "clean", "int8"))
        sc.export.to_onnx(model, example, plain)
        quant_pre_process(str(plain), str(clean), skip_symbolic_shape=True)
        name = session(clean).get_inputs()[0].name

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.batches = iter(images)

            def get_next(self) -> dict[str, Any] | None:
                batch = next(self.batches, None)
                return None if batch is None else {name: batch.numpy()}

        quantization.quantize_static(
            str(clean), str(written), Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            calibrate_method=getattr(quantization.CalibrationMethod, calibrate),
        )  # fmt: skip
        return _Session(written), {}


if __name__ == "__main__":
    main()
