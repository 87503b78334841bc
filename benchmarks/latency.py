"""Latency budgets, measured again: python benchmarks/latency.py [--models ...] [--shares ...] [--threads 1]

Every cell asks for a share of the time that a torchvision network takes, saves what `prune` makes of it, and times it
against the dense network in a fresh process, in turns. `measured` is the median of pruned / dense over these turns, and
`error` is measured / share - 1: a share, because the speed of a machine drifts by more than a budget's tolerance from
one process to the next, and both networks of a pair with it. Weights and images are random: only time counts here.
Rows are appended to results/latency.csv; those that are there are skipped. The machine has to be quiet.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torchvision
from table import Table
from torch import Tensor, nn

import secateur as sc
from secateur.measure import Comparison, compare_latency, keep_memory

MODELS = ("resnet18", "mobilenet_v2")
SHARES = (0.8, 0.6)
KEYS = ("model", "batch", "size", "share", "threads")
TABLE = Table(
    Path("results/latency.csv"),
    KEYS,
    (*KEYS, "measured", "error", "dense_ms", "pruned_ms", "macs_ratio", "seconds", "commit", "torch", "cpu",
     "command"),
)  # fmt: skip


def network(name: str) -> nn.Module:
    """Return an untrained network, the same each time."""
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name, weights=None)
    return model.eval()


def images(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def measure(folder: Path, name: str, batch: int, size: int, threads: int) -> Comparison:
    """Load an artefact and time it against the dense network; runs in a process of its own."""
    keep_memory()
    torch.set_num_threads(threads)
    smaller = sc.load(folder, lambda: network(name))
    return compare_latency(network(name), smaller, (images(batch, size),), rounds=100, seconds=10)


def run_cell(name: str, share: float, batch: int, size: int, threads: int, table: Table) -> None:
    """Prune to a share of the time that the network takes now, measure anew, and append the row."""
    keys = {
        "model": name,
        "batch": str(batch),
        "size": str(size),
        "share": str(share),
        "threads": str(threads),
    }
    if tuple(keys[k] for k in KEYS) in table.present():
        return
    model, x = network(name), images(max(batch, 8), size)
    start = time.perf_counter()
    result = sc.prune(
        model,
        x[:batch],
        method=sc.Magnitude(),
        budget=sc.Budget(latency=share),
        calibration=[x],
        limits=sc.Limits(round_to=8),
    )
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as scratch:
        folder = result.save(Path(scratch) / "artefact")
        # Spawned, so that nothing of this process lives on: its allocator, its caches, its threads.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            found = fresh.submit(measure, folder, name, batch, size, threads).result()
    error = found.ratio / share - 1
    table.append(keys | {
        "measured": found.ratio, "error": error, "dense_ms": found.dense.median_ms,
        "pruned_ms": found.pruned.median_ms, "macs_ratio": result.report.ratios()["macs"], "seconds": seconds,
    } | table.provenance(
        f"python benchmarks/latency.py --models {name} --shares {share} --batch {batch} --size {size} "
        f"--threads {threads}"
    ))  # fmt: skip
    print(
        f"{name}, batch {batch}: asked for {share:.0%}, measured {found.ratio:.1%} of {found.dense.median_ms:.2f} ms "
        f"({error:+.1%}); {seconds:.0f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=224, help="pixels along each side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=TABLE.path)
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(options.threads)
    table = Table(options.output, TABLE.keys, TABLE.columns)
    for name in options.models:
        for share in options.shares:
            run_cell(name, share, options.batch, options.size, options.threads, table)


if __name__ == "__main__":
    main()
