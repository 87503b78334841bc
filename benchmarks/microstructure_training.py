"""ADMM towards blocks against magnitude, at the same epochs: python benchmarks/microstructure_training.py

Each cell trains a network with blocks for `epochs` epochs (ADMM for `admm` of them, or none: projection at once) on all
but the held-out training images, and appends a row to results/microstructure.csv; finished cells are skipped, killed
ones go on from their last epoch. The final weights stay in runs/microstructure.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from microstructure_table import accuracy, append, is_there, keys
from safetensors.torch import save_file
from torch import nn
from training import HELD_OUT, augment

from secateur.data import ImageData, load_images
from secateur.graph import trace
from secateur.methods.blockable import Place
from secateur.methods.microstructure import MicroStructured
from secateur.structure import Block
from secateur.training.admm import ADMM
from secateur.zoo import pretrained
from secateur.zoo.models import lenet5


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

    def method(self) -> ADMM:
        # LeNet-5 has no layer to spare: nearly all of its weights are in two, the smallest of the rest stays whole.
        skip = (Place.FIRST_CONVOLUTION,) if self.model == "lenet5-mnist" else MicroStructured().skip
        structure = MicroStructured(self.block, self.zero, self.unify, skip=skip)
        if self.unify and self.zero and self.admm:
            return ADMM.prune_first(structure, self.admm)
        return ADMM(structure, self.admm)

    def keys(self) -> dict[str, str]:
        stages = 2 if self.admm and self.unify and self.zero else 1
        name = "admm" if self.admm else "magnitude"
        training = f"{self.admm * stages}+{self.epochs - self.admm * stages}"
        return keys(self.model, name, self.block, self.zero, self.unify, training, self.seed)


def pairs(
    model: str, block: Block, zero: float, unify: float, admm: int, epochs: int, seed: int = 0
) -> list[Cell]:
    """Return a cell and its magnitude twin."""
    return [Cell(model, block, zero, unify, n, epochs, seed) for n in (admm, 0)]


RESNET, VGG, LENET = "resnet20-cifar10", "vgg16bn-quarter-cifar10", "lenet5-mnist"
TALL, LOW = Block(8, 1), Block(4, 1)
CELLS = [
    *pairs(RESNET, TALL, 0.7, 0.0, 4, 12),
    *pairs(LENET, LOW, 0.95, 0.025, 4, 15),
    *pairs(LENET, LOW, 0.97, 0.015, 4, 15),
    *pairs(RESNET, TALL, 0.7, 0.15, 3, 12),
    *pairs(LENET, TALL, 0.95, 0.025, 4, 15),
    *pairs(LENET, LOW, 0.9, 0.05, 4, 15),
    *pairs(VGG, TALL, 0.7, 0.0, 4, 12),
    *pairs(RESNET, TALL, 0.9, 0.0, 4, 12),
    *pairs(RESNET, TALL, 0.7, 0.0, 4, 12, seed=1),
    *pairs(RESNET, TALL, 0.7, 0.0, 4, 12, seed=2),
]


def trained(
    model: nn.Module,
    data: ImageData,
    method: ADMM | None,
    epochs: int,
    seed: int,
    checkpoint: Path,
    lr: float,
) -> nn.Module:
    """Train on all but the held-out images with one-cycle SGD; go on from `checkpoint` if it is there."""
    torch.manual_seed(seed)
    x, y = data.normalise(data.train_x[:-HELD_OUT]), data.train_y[:-HELD_OUT]
    flip, batch = data.name.startswith("cifar"), 128
    model = model.to(memory_format=torch.channels_last)
    steps = len(x) // batch
    optimizer = torch.optim.SGD(model.parameters(), lr, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps * epochs, pct_start=0.1, div_factor=10, final_div_factor=1000
    )
    first, attached = 0, None
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
        first = state["epoch"]
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    for epoch in range(first, epochs):
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        model.train()
        total = 0.0
        for i in torch.randperm(len(x), generator=generator)[: steps * batch].split(batch):
            images = augment(x[i], generator, flip).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images)
            loss = nn.functional.cross_entropy(logits.float(), y[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        line = f"epoch {epoch + 1} of {epochs}: loss {total / steps:.4f}, {time.perf_counter() - start:.0f} s"
        if attached is not None:
            attached.epoch_end()
            found = attached.state_dict()["rule.residuals"]
            line += f", residuals {found[-1].tolist()}" if len(found) else ""
        print(line, flush=True)
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1,
                    "schedule": schedule.state_dict(),
                    "attached": attached.state_dict() if attached else {}}, f"{checkpoint}.tmp")  # fmt: skip
        os.replace(f"{checkpoint}.tmp", checkpoint)
    if attached is not None:
        attached.detach()
    return model.eval()


def dense_network(name: str, data: ImageData) -> nn.Module:
    """Return the trained dense network; LeNet-5, which the zoo does not have, is trained first."""
    if name != LENET:
        return pretrained(name)
    torch.manual_seed(0)
    return trained(lenet5(), data, None, 10, 0, Path("runs/microstructure/lenet5-dense.ckpt"), 0.05)


def run(cell: Cell) -> None:
    if is_there(cell.keys()):
        return
    data = load_images(cell.model.rpartition("-")[2])
    dense = dense_network(cell.model, data)
    before = accuracy(dense, data)
    label = "-".join(cell.keys().values())
    print(label, cell.method(), flush=True)
    start = time.perf_counter()
    model = trained(
        dense, data, cell.method(), cell.epochs, cell.seed, Path(f"runs/microstructure/{label}.ckpt"), 0.02
    )
    model = model.to(memory_format=torch.contiguous_format)
    seconds = time.perf_counter() - start
    patterns = cell.method().structure.observed(model)
    save_file(model.state_dict(), f"runs/microstructure/{label}.safetensors")
    graph = trace(model, data.normalise(data.test_x[:2]))
    command = f"python benchmarks/microstructure_training.py --cells {CELLS.index(cell)}"
    append(cell.keys(), data, graph, model, patterns, before, accuracy(model, data), seconds, command)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", nargs="+", type=int, default=list(range(len(CELLS))), help="by number")
    for number in parser.parse_args().cells:
        run(CELLS[number])


if __name__ == "__main__":
    main()
