"""Dense against pruned in PyTorch and in ONNX Runtime, batch 1 and 32: python benchmarks/engines.py [--prepare]

With `--prepare` the networks are pruned and exported into runs/engines; without it they are timed, dense and pruned, in
both engines in turns, and rows go to results/engines.csv. Units are chosen by magnitude, the same share of every layer:
what the weights are changes no time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import decoder
import effnet
import minilm
import torch
from table import Table
from torch import Tensor, nn

import secateur as sc
from secateur.artefact import read
from secateur.export.check import difference
from secateur.export.onnx import session
from secateur.measure.latency import interleaved

FOLDER = Path("runs/engines")
BATCHES = (1, 32)
BUDGETS = {
    "efficientnet-lite0": (0.7, 0.5),
    "all-minilm-l6-v2": (0.7, 0.5),
    "smollm2-135m": (0.8, 0.7),
}  # of the MACs
# ONNX Runtime's convolutions seem to want blocks of channels; heads come in nines and twelves.
MULTIPLES = {"efficientnet-lite0": (1, 8, 16), "all-minilm-l6-v2": (1,), "smollm2-135m": (1,)}
TABLE = Table(
    Path("results/engines.csv"),
    ("model", "budget", "round_to", "batch", "threads"),
    ("model", "input", "budget", "round_to", "batch", "threads", "macs_ratio", "torch_dense_ms", "torch_pruned_ms",
     "torch_ratio", "onnx_dense_ms", "onnx_pruned_ms", "onnx_ratio", "onnx_difference", "rounds", "commit", "torch",
     "onnxruntime", "cpu", "command"),
)  # fmt: skip


class Session(nn.Module):
    """An ONNX file, run by ONNX Runtime."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.run = session(file)

    def forward(self, *args: Tensor, **kwargs: Tensor) -> list[Any]:
        names = [i.name for i in self.run.get_inputs()]
        given = dict(zip(names, args, strict=False)) | kwargs
        found: list[Any] = self.run.run(None, {n: given[n].numpy() for n in names})
        return found


def networks() -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
    """Return the dense networks and 32 inputs of each."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1000, 20_000, (32, minilm.LENGTH), generator=generator)
    pictures = torch.rand(32, 3, effnet.SIZE, effnet.SIZE, generator=generator)
    return {
        "efficientnet-lite0": (effnet.network(), {"inputs": pictures}),
        "all-minilm-l6-v2": (
            minilm.network()[1],
            {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)},
        ),
        "smollm2-135m": (decoder.network()[1], {"input_ids": tokens}),
    }


def prepare() -> None:
    for name, (model, inputs) in networks().items():
        few = {k: v[:4] for k, v in inputs.items()}
        if not (FOLDER / f"{name}.onnx").exists():
            print(sc.export.to_onnx(model, few, FOLDER / f"{name}.onnx"), flush=True)
        for budget, multiple in product(BUDGETS[name], MULTIPLES[name]):
            file = FOLDER / f"{name}-{budget}-{multiple}.onnx"
            if file.exists():
                continue
            result = sc.prune(
                model,
                few,
                method=sc.Magnitude(),
                budget=sc.Budget(macs=budget),
                calibration=[few],
                progress=False,
                limits=sc.Limits(round_to=multiple),
            )
            result.save(file.with_suffix(""))
            print(sc.export.to_onnx(result.model, few, file), flush=True)


def measure(seconds: float) -> None:
    for name, (model, inputs) in networks().items():
        for budget, multiple, batch in product(BUDGETS[name], MULTIPLES[name], BATCHES):
            key = (name, str(budget), str(multiple), str(batch), str(torch.get_num_threads()))
            if key not in TABLE.present():
                given = {k: v[:batch] for k, v in inputs.items()}
                TABLE.append(dict(zip(TABLE.keys, key, strict=True)) | cell(name, model, given, key, seconds))


def cell(
    name: str, model: nn.Module, given: Mapping[str, Tensor], key: tuple[str, ...], seconds: float
) -> dict[str, object]:
    """Time four ways to run a batch, in turns."""
    import onnxruntime

    stem = f"{name}-{key[1]}-{key[2]}"
    pruned = sc.load(FOLDER / stem, model).eval()
    engines = [Session(FOLDER / f"{name}.onnx"), Session(FOLDER / f"{stem}.onnx")]
    times = interleaved([model, pruned, *engines], given, 10, seconds, 3, time.perf_counter)
    ms = [statistics.median(t) for t in times]
    print(key, [round(m, 2) for m in ms], flush=True)
    with torch.inference_mode():
        whole = pruned(**given)
    expected = whole if isinstance(whole, Tensor) else whole[0]
    report = read(FOLDER / stem).report
    return {
        "input": "x".join(map(str, next(iter(given.values())).shape[1:])),
        "macs_ratio": report["after"]["macs"] / report["before"]["macs"],
        "torch_dense_ms": ms[0], "torch_pruned_ms": ms[1], "torch_ratio": ms[1] / ms[0],
        "onnx_dense_ms": ms[2], "onnx_pruned_ms": ms[3], "onnx_ratio": ms[3] / ms[2],
        "onnx_difference": difference(expected, torch.from_numpy(engines[1](**given)[0])), "rounds": len(times[0]),
        "onnxruntime": onnxruntime.__version__,
    } | TABLE.provenance("python benchmarks/engines.py")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prepare", action="store_true", help="prune and export; nothing is timed")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each comparison")
    options = parser.parse_args()
    if options.prepare:
        prepare()
    else:
        measure(options.seconds)


if __name__ == "__main__":
    main()
