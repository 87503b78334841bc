"""ADMM towards blocks against magnitude, at the same epochs: python benchmarks/microstructure_training.py

Each cell trains a network with blocks for `epochs` epochs (ADMM for `admm` of them, or none: projection at once) on all
but the held-out training images, and appends a row to results/microstructure.csv; finished cells are skipped, killed
ones go on from their last epoch. The final weights stay in runs/microstructure. What is judged is what comes out of the
packed file. Of autoencoders the columns of accuracy hold the peak signal-to-noise ratio in dB. `as_magnitude` is the
share of the blocks that the dense network's magnitudes keep which are kept, `same` the share of the kept blocks that
ADMM's last renewal kept as well, `primal` and `dual` are its residuals then. `--tune` compares short runs.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from microstructure_table import append, is_there, keys
from microstructure_tasks import TASKS, Task
from safetensors.torch import save_file
from torch import nn
from training import HELD_OUT

from secateur.artefact import Quantise, pack, unpack
from secateur.blocks import AcrossLayers, Block, BlockPattern, Shares, block_costs
from secateur.blocks.splitting import shared
from secateur.data import ImageData, load_images
from secateur.graph import trace
from secateur.methods import MicroStructured
from secateur.methods.admm import ADMM, Residual
from secateur.training import distillation_loss

RUNS = Path("runs/microstructure")
BATCH = 128
TAUGHT = 0.9  # weight of the dense network's outputs, as in `finetune`


@dataclass(frozen=True)
class Cell:
    """One network to train."""

    model: str
    block: Block
    zero: float
    unify: float
    admm: int  # epochs of each stage
    epochs: int  # in all
    seed: int = 0
    bits: int | None = None  # of the packed file's weights, and of those that are judged; else they are exact
    across: bool = False  # layers compete for zeros, where the task gives each its own
    taught: bool = False  # by the dense network's outputs, beside the labels

    def method(self) -> ADMM:
        task = TASKS[self.model]
        structure = MicroStructured(
            self.block,
            self.zero,
            self.unify,
            skip=task.skip,
            spread=AcrossLayers() if self.across else task.spread,
        )
        stages = tuple(Shares(zero) for zero in task.stages) if self.admm else ()
        if not stages and self.admm and self.zero >= 0.9:
            stages = ADMM.gradually(structure).stages
        if self.unify and self.zero and self.admm:
            stages += (Shares(self.zero),)
        return ADMM(structure, self.admm, stages=stages)

    def keys(self) -> dict[str, str]:
        name = "admm" if self.admm else "magnitude"
        name += f", {self.bits} bit" if self.bits else ""
        name += ", across layers" if self.across else ""
        name += ", taught" if self.taught else ""
        least = self.method().least_epochs
        training = f"{least}+{self.epochs - least}"
        return keys(self.model, name, self.block, self.zero, self.unify, training, self.seed)

    @property
    def label(self) -> str:
        """What its files are called: quantised twins share the training."""
        return "-".join(replace(self, bits=None).keys().values())


def pairs(
    model: str,
    block: Block,
    zero: float,
    unify: float,
    admm: int,
    epochs: int,
    seed: int = 0,
    bits: int | None = None,
    across: bool = False,
    taught: bool = False,
) -> list[Cell]:
    """Return a cell and its magnitude twin."""
    return [Cell(model, block, zero, unify, n, epochs, seed, bits, across, taught) for n in (admm, 0)]


RESNET, VGG = "resnet20-cifar10", "vgg16bn-quarter-cifar10"
LENET, CODER = "lenet5-mnist", "autoencoder-cifar10"
TALL, LOW = Block(8, 1), Block(4, 1)
CELLS = [
    *pairs(RESNET, TALL, 0.7, 0.0, 1, 12),
    *pairs(LENET, LOW, 0.988, 0.0, 2, 25),
    *pairs(LENET, LOW, 0.988, 0.0, 2, 25, bits=8),
    *pairs(RESNET, TALL, 0.7, 0.15, 1, 12),
    *pairs(LENET, LOW, 0.975, 0.025, 2, 25, bits=8),
    *pairs(LENET, TALL, 0.988, 0.0, 2, 25, bits=8),
    *pairs(CODER, TALL, 0.7, 0.0, 2, 15),
    *pairs(VGG, TALL, 0.7, 0.0, 1, 12),
    *pairs(RESNET, TALL, 0.9, 0.0, 1, 12),
    *pairs(RESNET, TALL, 0.7, 0.0, 1, 12, seed=1),
    *pairs(RESNET, TALL, 0.7, 0.0, 1, 12, seed=2),
    *pairs(RESNET, TALL, 0.7, 0.0, 2, 24, across=True),
    *pairs(RESNET, TALL, 0.7, 0.0, 2, 24, across=True, taught=True),
    *(cell for seed in (1, 2) for cell in pairs(LENET, LOW, 0.988, 0.0, 2, 25, seed)),
    *(cell for seed in (1, 2) for cell in pairs(CODER, TALL, 0.7, 0.0, 2, 15, seed)),
    *(cell for seed in (1, 2) for cell in pairs(VGG, TALL, 0.7, 0.0, 1, 12, seed)),
]


def trained(
    model: nn.Module,
    data: ImageData,
    task: Task,
    method: ADMM | None,
    epochs: int,
    seed: int,
    checkpoint: Path,
    teacher: nn.Module | None = None,
    until: float = math.inf,
) -> tuple[nn.Module, float]:
    """Train on all but the held-out images, by one cycle; go on from `checkpoint` if it is there. Count the seconds.

    No epoch begins after `until`, in the seconds of `time.monotonic`.

    Raises:
        TimeoutError: it was over before the last epoch; the checkpoint is there to go on from.
    """
    torch.manual_seed(seed)
    x, y = task.images(data, data.train_x[:-HELD_OUT]), data.train_y[:-HELD_OUT]
    model = model.to(memory_format=torch.channels_last)
    steps = len(x) // BATCH
    optimizer = task.optimizer(model.parameters(), task.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, task.lr, total_steps=steps * epochs, pct_start=0.1, div_factor=10, final_div_factor=1000
    )
    first, seconds, attached = 0, 0.0, None
    state = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else None
    if state is not None:
        model.load_state_dict(state["model"])
    if method is not None:
        attached = method.attach(model, optimizer)
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        if attached is not None:
            attached.load_state_dict(state["attached"])
        first, seconds = state["epoch"], state["seconds"]
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    for epoch in range(first, epochs):
        if time.monotonic() > until:
            raise TimeoutError(f"stopped after {epoch} of {epochs} epochs")
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        model.train()
        total = 0.0
        for i in torch.randperm(len(x), generator=generator)[: steps * BATCH].split(BATCH):
            inputs, wanted = task.batch(x[i], y[i], generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=task.bf16):
                inputs = inputs.contiguous(memory_format=torch.channels_last)
                outputs = model(inputs)
                with torch.no_grad():
                    taught = None if teacher is None else teacher(inputs)
            loss = task.loss(outputs.float(), wanted)
            if taught is not None:
                loss = (1 - TAUGHT) * loss + TAUGHT * distillation_loss(outputs.float(), taught.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        if attached is not None:
            attached.epoch_end()
        spent = time.perf_counter() - start
        seconds += spent
        line = f"epoch {epoch + 1} of {epochs}: loss {total / steps:.4f}, {spent:.0f} s"
        if attached is not None:
            found = attached.state_dict()["rule.residuals"]
            line += f", residuals {found[-1].tolist()}" if len(found) else ""
        print(line, flush=True)
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1,
                    "schedule": schedule.state_dict(), "seconds": seconds,
                    "attached": attached.state_dict() if attached else {}}, f"{checkpoint}.tmp")  # fmt: skip
        os.replace(f"{checkpoint}.tmp", checkpoint)
    if attached is not None:
        attached.detach()
    return model.eval(), seconds


def dense_network(name: str, data: ImageData, until: float = math.inf) -> nn.Module:
    """Return the trained dense network; those that the zoo does not have are trained first."""
    task = TASKS[name]
    torch.manual_seed(0)
    model = task.make()
    if not task.dense_epochs:
        return model
    checkpoint = RUNS / f"{name}-dense.ckpt"
    return trained(model, data, task, None, task.dense_epochs, 0, checkpoint, until=until)[0]


def run(cell: Cell, until: float = math.inf) -> None:
    if is_there(cell.keys()):
        return
    task = TASKS[cell.model]
    data = load_images(cell.model.rpartition("-")[2])
    dense = dense_network(cell.model, data, until)
    print(*cell.keys().values(), cell.method(), flush=True)
    checkpoint = RUNS / f"{cell.label}.ckpt"
    teacher = copy.deepcopy(dense) if cell.taught else None
    model, seconds = trained(
        dense, data, task, cell.method(), cell.epochs, cell.seed, checkpoint, teacher, until
    )
    model = model.to(memory_format=torch.contiguous_format)
    images = task.images(data, data.test_x)
    before = task.score(dense_network(cell.model, data), images, data.test_y)
    patterns = cell.method().structure.observed(model)
    found = approach(cell.method().structure, cell.model, data, patterns, checkpoint)
    save_file(model.state_dict(), RUNS / f"{cell.label}.safetensors")
    graph = trace(model, images[:2])
    command = f"python benchmarks/microstructure_training.py --cells {CELLS.index(cell)}"
    quantise = None if cell.bits is None else Quantise(cell.bits)
    with tempfile.TemporaryDirectory() as folder:
        packed = pack(model, Path(folder) / "model.sec", quantise=quantise)
        model.load_state_dict(unpack(packed.path))
    after = task.score(model, images, data.test_y)
    append(cell.keys(), data, graph, model, patterns, before, after, seconds, command, packed.bytes, found)


def approach(
    structure: MicroStructured,
    name: str,
    data: ImageData,
    patterns: Mapping[str, BlockPattern],
    checkpoint: Path,
) -> dict[str, float]:
    """Return what a network's blocks share with those of the dense one's magnitudes, and ADMM's last residual."""
    dense = dense_network(name, data)
    partitions = structure.layers(dense).partitions
    errors = {n: block_costs(p, dense.get_parameter(n)) for n, p in partitions.items()}
    found = {"as_magnitude": shared(structure.patterns(dense, partitions, errors), patterns)}
    rows = torch.load(checkpoint, weights_only=True)["attached"]["rule.residuals"]
    if not len(rows):
        return found
    last = Residual(*rows[-1].tolist())
    return found | {"same": last.same, "primal": last.primal, "dual": last.dual}


def tune(name: str, zeros: Sequence[float], epochs: int = 8, steps: int = 15) -> None:
    """Print what short runs reach on the held-out training images, each `epochs` epochs of `steps` steps; no row."""
    task, data = TASKS[name], load_images(name.rpartition("-")[2])
    used = torch.cat(
        [torch.arange(steps * BATCH), torch.arange(len(data.train_x) - HELD_OUT, len(data.train_x))]
    )
    short = replace(data, train_x=data.train_x[used], train_y=data.train_y[used])
    held_x, held_y = task.images(data, short.train_x[-HELD_OUT:]), short.train_y[-HELD_OUT:]
    for zero in zeros:
        block = LOW if name == LENET else TALL
        structure = MicroStructured(block, zero, skip=task.skip, spread=task.spread)
        ways = {"magnitude": ADMM(structure, 0), "one stage": ADMM(structure, 1, every=steps // 2)}
        ways["gradually"] = ADMM.gradually(structure, every=steps // 2)
        for way, method in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                checkpoint = Path(folder) / "tuned.ckpt"
                model, _ = trained(dense_network(name, data), short, task, method, epochs, 0, checkpoint)
                found = approach(structure, name, data, structure.observed(model), checkpoint)
            score = task.score(model, held_x, held_y)
            print(
                f"{name}, {zero:g} zero, {way}: {score:.4f}, as magnitudes {found['as_magnitude']:.3f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", nargs="+", type=int, default=list(range(len(CELLS))), help="by number")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no epoch after that long")
    parser.add_argument(
        "--tune", choices=TASKS, help="short runs of a network, judged on held-out training images"
    )
    parser.add_argument(
        "--zeros", nargs="+", type=float, default=[0.7, 0.9], help="shares of zeros to tune with"
    )
    options = parser.parse_args()
    if options.tune:
        tune(options.tune, options.zeros)
        return
    until = time.monotonic() + options.seconds
    for number in options.cells:
        try:
            run(CELLS[number], until)
        except TimeoutError as stopped:
            parser.exit(3, f"{stopped}: the same command goes on from there\n")


if __name__ == "__main__":
    main()
