"""Train the zoo's reference networks: python benchmarks/train_zoo.py resnet20-cifar10

The last 5,000 training images are held out (they tune options, never weights). The run checkpoints after
every epoch and resumes where it stopped; the last epoch's averaged weights are written as safetensors.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from training import HELD_OUT, augment

from secateur import zoo
from secateur.data import load_images


@dataclass(frozen=True)
class Run:
    """One training: the network, its data and the schedule (one-cycle SGD with Nesterov momentum)."""

    make: Callable[[], nn.Module]
    dataset: str
    epochs: int
    lr: float = 0.2
    weight_decay: float = 5e-4
    batch: int = 128
    averaging: float = 0.998  # exponential moving average of the weights


RUNS = {
    "resnet20-fashion": Run(lambda: zoo.resnet20(in_channels=1), "fashion-mnist", 16),
    "resnet20-cifar10": Run(zoo.resnet20, "cifar10", 45),
    "vgg16bn-quarter-cifar10": Run(lambda: zoo.vgg16_bn(width=0.25), "cifar10", 25, lr=0.1),
    "lenet5-mnist": Run(zoo.lenet5, "mnist", 8, lr=0.02),
    "lenet300-mnist": Run(zoo.lenet300, "mnist", 20, lr=0.05),
}


@torch.inference_mode()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    hits = sum(
        int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(1000), y.split(1000), strict=True)
    )
    return hits / len(y)


def train(name: str, run: Run, folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    data = load_images(run.dataset)
    x, y = data.normalise(data.train_x[:-HELD_OUT]), data.train_y[:-HELD_OUT]
    held_x, held_y = data.normalise(data.train_x[-HELD_OUT:]), data.train_y[-HELD_OUT:]
    test_x = data.normalise(data.test_x)
    model = run.make().to(memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(run.averaging), use_buffers=True
    )
    steps = len(x) // run.batch
    optimizer = torch.optim.SGD(model.parameters(), run.lr, 0.9, weight_decay=run.weight_decay, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, run.lr, total_steps=steps * run.epochs, pct_start=0.2, div_factor=10, final_div_factor=1000
    )
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, first = folder / f"{name}.ckpt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]
    for epoch in range(first, run.epochs):
        start, generator = time.perf_counter(), torch.Generator().manual_seed(1000 * seed + epoch)
        model.train()
        for i in torch.randperm(len(x), generator=generator)[: steps * run.batch].split(run.batch):
            images = augment(x[i], generator, flip=run.dataset != "mnist")
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images.contiguous(memory_format=torch.channels_last))
            loss = nn.functional.cross_entropy(logits.float(), y[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
        held = accuracy(average.module, held_x, held_y)
        print(f"{name} epoch {epoch + 1}/{run.epochs} loss {loss:.3f} held-out {held:.4f} "
              f"({time.perf_counter() - start:.0f} s)", flush=True)  # fmt: skip
        state = {"model": model.state_dict(), "average": average.state_dict(), "epoch": epoch + 1}
        state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        torch.save(state, f"{checkpoint}.tmp")
        os.replace(f"{checkpoint}.tmp", checkpoint)
    final = average.module
    test, held = accuracy(final, test_x, data.test_y), accuracy(final, held_x, held_y)
    weights = {k: v.contiguous() for k, v in final.state_dict().items()}
    notes = {"dataset": run.dataset, "epochs": str(run.epochs), "seed": str(seed), "torch": torch.__version__}
    notes |= {"test_accuracy": f"{test:.4f}", "held_out_accuracy": f"{held:.4f}"}
    save_file(weights, folder / f"{name}.safetensors", metadata=notes)
    row = {"name": name, "dataset": run.dataset, "parameters": sum(p.numel() for p in final.parameters()),
           "epochs": run.epochs, "seed": seed, "held_out_accuracy": f"{held:.4f}", "test_accuracy": f"{test:.4f}",
           "torch": torch.__version__, "command": f"python benchmarks/train_zoo.py {name}"}  # fmt: skip
    table = Path("results/zoo.csv")
    new = not table.exists()
    with table.open("a", newline="") as f:
        writer = csv.DictWriter(f, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(json.dumps(row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="+", choices=RUNS)
    parser.add_argument("--folder", type=Path, default=Path("runs/zoo"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.names:
        train(name, RUNS[name], options.folder, options.seed)


if __name__ == "__main__":
    main()
