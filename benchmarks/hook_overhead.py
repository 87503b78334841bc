"""What hooks cost in a whole training step: python benchmarks/hook_overhead.py [--batch 128] [--rounds 60]

A step of ResNet-20 (forward, backward, optimiser) on random 32 x 32 images, without hooks and with each method at work
on masks that keep a tenth of all weights. In every round each of them makes one step, in a new order; medians over
rounds are compared, and `overhead` is hooked / plain - 1. Rows are appended to results/hook_overhead.csv; optimisers
that are there are skipped. The machine has to be quiet.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from table import Table
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

import secateur as sc
from secateur import zoo
from secateur.training import TrainingMethod

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd-foreach": partial(SGD, lr=0.01, momentum=0.9, foreach=True),
    "adam-foreach": partial(Adam, lr=1e-3, foreach=True),
    "adamw-fused": partial(AdamW, lr=1e-3, fused=True),
}
METHODS: dict[str, TrainingMethod | None] = {
    "masks": None,
    "irrelevance": sc.IrrelevanceDecay(gamma=1e-4),
    "lobster": sc.methods.Lobster(),
}
PLAIN = "none"
KEYS = ("model", "batch", "optimizer", "method", "threads")
TABLE = Table(
    Path("results/hook_overhead.csv"),
    KEYS,
    (*KEYS, "kept", "rounds", "plain_ms", "hooked_ms", "overhead", "commit", "torch", "cpu", "command"),
)


def stepper(name: str, make: Callable[..., Optimizer], x: Tensor, y: Tensor) -> Callable[[], None]:
    """Return one training step of a network of its own."""
    torch.manual_seed(0)
    model: nn.Module = zoo.resnet20().to(memory_format=torch.channels_last)
    optimizer = make(model.parameters())
    if name in METHODS:
        method, masks = METHODS[name], sc.IrrelevanceDecay().prune(model, sc.Masks(), 0.1, ())
        sc.training.attach(model, optimizer, masks=masks) if method is None else method.attach(
            model, optimizer, masks=masks
        )

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def run(optimizer: str, batch: int, rounds: int, threads: int, table: Table) -> None:
    """Time the steps of all methods under one optimiser, and append their rows."""
    keys = {"model": "resnet20", "batch": str(batch), "optimizer": optimizer, "threads": str(threads)}
    if (*(keys[k] for k in KEYS[:3]), "masks", str(threads)) in table.present():
        return
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (batch,), generator=generator)
    steps = {name: stepper(name, OPTIMIZERS[optimizer], x, y) for name in (PLAIN, *METHODS)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order, shuffle = list(steps), random.Random(0)
    for number in range(3 + rounds):  # three to warm up
        shuffle.shuffle(order)
        for name in order:
            start = time.perf_counter()
            steps[name]()
            if number >= 3:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: 1000 * statistics.median(times) for name, times in seconds.items()}
    command = f"python benchmarks/hook_overhead.py --batch {batch} --rounds {rounds} --threads {threads}"
    for name in METHODS:
        overhead = medians[name] / medians[PLAIN] - 1
        table.append(keys | {
            "method": name, "kept": 0.1, "rounds": rounds, "plain_ms": medians[PLAIN],
            "hooked_ms": medians[name], "overhead": overhead,
        } | table.provenance(command))  # fmt: skip
        print(
            f"{optimizer}, {name}: {medians[PLAIN]:.2f} -> {medians[name]:.2f} ms ({overhead:+.1%})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=TABLE.path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(options.output, TABLE.keys, TABLE.columns)
    for optimizer in OPTIMIZERS:
        run(optimizer, options.batch, options.rounds, options.threads, table)


if __name__ == "__main__":
    main()
