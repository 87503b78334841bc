"""Single layers, sparse against the best dense engine: python benchmarks/runtime_layers.py [--layers ...] [--minutes 9]

Each row times a layer with random weights and a random mask of blocks against whichever of PyTorch (contiguous,
channels_last), inductor with freezing, ONNX Runtime and OpenVINO is fastest on the dense layer, in turns, one thread.
`speedup` is the median of the ratios of neighbouring runs with its quartiles, `aa_control` the dense engine against
itself in the same turns. Balanced random masks say nothing about accuracy. Rows are appended to
results/runtime_layers.csv, 8x1 at 80 and 50 % of all layers first; those that are there are skipped. The machine has to
be quiet.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from dense_engines import Call, dense_engines
from pairs import best, paired
from table import Table
from torch import Tensor, nn

from secateur.runtime import SparseConv2d, SparseLinear, kernels

KEYS = ("layer", "block", "sparsity", "batch", "threads")
TABLE = Table(
    Path("results/runtime_layers.csv"),
    KEYS,
    (*KEYS, "best_dense_engine", "best_dense_us", "sparse_us", "speedup", "speedup_low", "speedup_high",
     "aa_control", "commit", "cpu"),
)  # fmt: skip
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
BLOCKS = ("8x1", "4x1", "16x1", "4x4", "8x8", "1x1")  # outputs x inputs; zero
TELLING = (("8x1", 0.8), ("8x1", 0.5))


@dataclass(frozen=True)
class Case:
    """A layer on a batch."""

    name: str
    make: Callable[[], nn.Linear | nn.Conv2d]
    shape: tuple[int, ...]  # of one sample
    batch: int

    def input(self) -> Tensor:
        """Return a random batch."""
        return torch.randn(self.batch, *self.shape, generator=torch.Generator().manual_seed(0))


def _linear(inputs: int, outputs: int, batch: int) -> Case:
    return Case(f"linear {inputs}->{outputs}", lambda: nn.Linear(inputs, outputs), (inputs,), batch)


def _conv(inputs: int, outputs: int, kernel: int, size: int, batch: int) -> Case:
    return Case(
        f"conv{kernel}x{kernel} {inputs}->{outputs}@{size}",
        lambda: nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2),
        (inputs, size, size),
        batch,
    )


CASES = [
    _conv(64, 64, 3, 56, 1), _conv(64, 64, 3, 56, 32), _conv(256, 256, 3, 14, 1), _conv(256, 256, 3, 14, 32),
    _conv(512, 512, 3, 7, 1), _conv(512, 512, 3, 7, 32), _conv(256, 1024, 1, 14, 1), _conv(256, 1024, 1, 14, 32),
    _linear(784, 304, 32), _linear(768, 3072, 32), _linear(4096, 4096, 32),
    _linear(784, 304, 1), _linear(768, 3072, 1), _linear(4096, 4096, 1),
]  # fmt: skip


def masked(layer: nn.Linear | nn.Conv2d, block: str, sparsity: float) -> None:
    """Zero random blocks of a layer's weight in place, and unify what is left if the block says so."""
    rng = torch.Generator().manual_seed(0)
    height, width = (int(n) for n in block.removeprefix("u").split("x"))
    weight = layer.weight.detach()
    outputs, inputs = weight.shape[:2]
    # Blocks span input channels at one tap: (outputs, taps, inputs).
    matrix = weight.reshape(outputs, inputs, -1).transpose(1, 2).clone()
    shape = (-(-outputs // height), matrix.shape[1], -(-inputs // width))

    def spread(x: Tensor) -> Tensor:
        return x.repeat_interleave(height, 0)[:outputs].repeat_interleave(width, 2)[:, :, :inputs]

    if block.startswith("u"):
        matrix = matrix.sign() * spread(torch.rand(shape, generator=rng) * 0.1 + 0.01)
    # The same share in every row of blocks, so that the sparsity is exact.
    order = torch.rand(shape[0], shape[1] * shape[2], generator=rng).argsort(1).argsort(1)
    keep = (order >= round(sparsity * order.shape[1])).reshape(shape)
    matrix = torch.where(spread(keep), matrix, 0.0)
    layer.weight.data = matrix.transpose(1, 2).reshape(weight.shape).contiguous()


def sparse_call(layer: nn.Linear | nn.Conv2d, block: str, x: Tensor) -> Call:
    """Return the layer in the kernels, and see that it computes what the dense layer does."""
    options = {"unified": True} if block == "u1x4" else {"height": int(block.split("x")[0])}
    kind = SparseLinear if isinstance(layer, nn.Linear) else SparseConv2d
    module = kind.of(layer, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(module(x), layer(x), rtol=1e-3, atol=1e-4)
    return lambda: module(x)


def wanted(case: Case) -> list[tuple[str, float]]:
    """Return the blocks and sparsities of a layer's rows."""
    return [(block, s) for block in BLOCKS for s in SPARSITIES] + [("u1x4", s) for s in (0.0, 0.5, 0.8)]


@torch.inference_mode()
def run_case(
    case: Case, cells: Sequence[tuple[str, float]], table: Table, threads: int, until: float
) -> None:
    """Append the missing ones of a layer's rows, as long as there is time."""
    name = {"layer": case.name, "batch": str(case.batch), "threads": str(threads)}
    missing = []
    for block, sparsity in cells:
        keys = name | {"block": block, "sparsity": str(sparsity)}
        if tuple(keys[k] for k in KEYS) not in table.present():
            missing.append((block, sparsity, keys))
    if not missing or time.monotonic() > until:
        return
    x, origin = case.input(), table.provenance("python benchmarks/runtime_layers.py")
    origin["cpu"] = f"{origin['cpu']} {kernels().instruction_set}"
    torch.manual_seed(0)
    with torch.inference_mode(False), torch.no_grad():
        layer = case.make()
        engines = dense_engines(layer, {"x": x}, threads)
    winner = best(engines)
    for block, sparsity, keys in missing:
        if time.monotonic() > until:
            return
        torch.manual_seed(0)
        with torch.inference_mode(False), torch.no_grad():
            sparse = case.make()
            masked(sparse, block, sparsity)
        found = paired(engines[winner], sparse_call(sparse, block, x))
        table.append(keys | {
            "best_dense_engine": winner, "best_dense_us": found.dense * 1e6, "sparse_us": found.sparse * 1e6,
            "speedup": found.speedup, "speedup_low": found.low, "speedup_high": found.high,
            "aa_control": found.control,
        } | origin)  # fmt: skip
        print(
            f"{case.name} batch {case.batch} {block} {sparsity:.0%}: {found.speedup:.2f} x {winner} "
            f"({found.low:.2f} to {found.high:.2f}; control {found.control:.2f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", nargs="+", help="parts of layers' names (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--minutes", type=float, default=9, help="stop at a row's end after so long; run it again"
    )
    parser.add_argument("--output", type=Path, default=TABLE.path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(options.output, TABLE.keys, TABLE.columns)
    until = time.monotonic() + 60 * options.minutes
    cases = [
        case
        for case in CASES
        if not options.layers or any(part in f"{case.name} batch {case.batch}" for part in options.layers)
    ]
    for case in cases:
        run_case(case, TELLING, table, options.threads, until)
    for case in cases:
        run_case(case, wanted(case), table, options.threads, until)


if __name__ == "__main__":
    main()
