"""Whole runs that other processes make: started here, killed there, or shared between two."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from training_problems import Smallest, accuracy, data, network

import secateur as sc
from secateur.training import Trained, train

Adam = partial(torch.optim.Adam, lr=0.02)
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Samples that differ each time, by all three generators that a user's augmentation may draw from; slowly."""

    def __init__(self, slow: float = 0.0) -> None:
        self.x, self.y = data()
        self.slow = slow

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        time.sleep(self.slow)
        noise = random.random() + float(np.random.rand()) + torch.rand(8)
        return self.x[index] + 0.1 * noise, self.y[index]


def rounds(folder: Path | None, slow: float = 0.0) -> Trained:
    """Gradual magnitude, momentum, and fine-tuning."""
    run = sc.Training(
        DataLoader(Noisy(slow), 32, shuffle=True),
        epochs=4,
        iterations=2,
        finetune=2,
        accumulate=3,
        optimizer=SGD,
        schedule=sc.training.Cosine(),
        validation=sc.Validation(accuracy, sc.Bound(0.3)),
        checkpoints=None if folder is None else sc.Checkpoints(folder, resume=True, every=2),
    )
    method = sc.GradualMagnitude(0.3, every=5, vectors=True)
    return train(network(), method, run, share=0.5, seed=4)


def crops(folder: Path | None, slow: float = 0.0) -> Trained:
    """Irrelevance decay, cropped while it trains, with Adam and a sampler that has its own generator."""
    own = torch.Generator().manual_seed(8)
    run = sc.Training(
        DataLoader(Noisy(slow), 32, shuffle=True, generator=own),
        epochs=6,
        finetune=2,
        optimizer=Adam,
        schedule=sc.training.OneCycle(),
        crops=sc.training.Crops(every=4, fraction=0.3),
        validation=sc.Validation([data(128, seed=1)], sc.Bound(0.4)),
        teacher=sc.Teacher(network(2), weight=0.2),
        checkpoints=None if folder is None else sc.Checkpoints(folder, resume=True, every=3),
    )
    return train(network(), sc.IrrelevanceDecay(gamma=1e-2), run, seed=4)


RUNS: dict[str, Callable[..., Trained]] = {"rounds": rounds, "crops": crops}


def wide(seed: int = 0) -> nn.Module:
    """A network in double precision without BatchNorm: one process or many differ by rounding only."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 40), nn.LayerNorm(40), nn.ReLU(), nn.Linear(40, 3)).double()


def shared(listed: bool) -> Trained:
    """Rounds on data that are dealt out where there are several processes."""
    x, y = data()
    pairs = DataLoader(TensorDataset(x.double(), y), 32, shuffle=not listed)
    run = sc.Training(
        list(pairs) if listed else pairs,
        epochs=2,
        iterations=3,
        optimizer=SGD,
        validation=sc.Validation([(x.double(), y)]),
    )
    return train(wide(), Smallest(), run, share=0.2)


def write(found: Trained, path: Path) -> None:
    tensors = {f"model.{n}": t for n, t in found.model.state_dict().items()}
    rows = [[row.step, row.loss or 0.0, row.metric or 0.0, row.share] for row in found.rows]
    masks = {f"masks.{n}": m for n, m in found.masks.items()}
    save_file(
        {k: v.contiguous() for k, v in {**tensors, **masks}.items()}
        | {"rows": torch.tensor(rows, dtype=torch.float64)},
        path,
    )


def interrupted(name: str, folder: Path, result: Path, started: Event) -> None:
    """Go on with a run, and write down what came out."""
    torch.set_num_threads(1)
    started.set()
    write(RUNS[name](folder, slow=3e-4), result)


def main(arguments: list[str]) -> Any:
    """Take part in a shared run: ``training_runs.py FOLDER``."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    for listed in (False, True):
        found = shared(listed)
        write(found, Path(arguments[0]) / f"{listed}.{dist.get_rank()}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
    # torch 2.15.0 aborts in a quarter of exits after DistributedDataParallel on gloo ("terminate called without an
    # active exception", also in a script of ten lines of plain torch): leave without its static destructors.
    os._exit(0)
