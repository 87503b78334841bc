"""Fewer connections of CIFAR-10 networks: python benchmarks/cifar_connections.py [--model ...] [--seeds 0 1 2]

From the trained networks of the zoo, in rounds of pruning and training with shifts and mirroring: four rounds to a
fifth of the parameters, a fifth from there to a tenth, a sixth to a twentieth; then dead units are removed. Four rounds
share their epochs so that the last, where most is won back, has what two fifths of a share each leave. ResNet-20 learns
from the dense network as well. The last 5,000 training images choose the epoch; the test images only score the finished
cell. Finished cells are appended to results/cifar_connections.csv and those that are there are skipped; a cell that was
killed goes on from its checkpoint in build/cifar_connections.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from table import Table
from torch import Tensor, nn
from training import augment

from secateur.data import HELD_OUT, ImageData, calibration, load_images
from secateur.measure import batches, macs, stored_bytes, top1
from secateur.methods import GradualMagnitude, IrrelevanceDecay, NNRelief
from secateur.methods.dead_units import without_dead_units
from secateur.report import zipped_bytes
from secateur.statistics import Contributor
from secateur.training import Checkpoints, Masks, Training, TrainingMethod, Validation, train
from secateur.training.options import Teacher
from secateur.training.schedules import Cosine
from secateur.zoo import pretrained

KEYS = ("model", "method", "share", "seed")
TABLE = Table(
    Path("results/cifar_connections.csv"), KEYS,
    (*KEYS, "rounds", "epochs", "acc_dense", "acc_test", "acc_held_out", "params_left_percent", "units_left",
     "macs_ratio", "bytes_raw", "bytes_zip", "seconds", "commit", "command"),
)  # fmt: skip
MODELS = ("resnet20-cifar10", "vgg16bn-quarter-cifar10")
SHARES = (0.2, 0.1, 0.05)  # of all parameters
ROUNDS = {0.2: 4, 0.1: 1, 0.05: 1}  # from the share before
TAUGHT = (
    "resnet20-cifar10",
)  # the dense VGG was trained for so short that it knows less than what is left of it
BUILD = Path("build/cifar_connections")
KERNELS = NNRelief(contributor=Contributor.KERNEL)
METHODS: dict[str, Callable[[float], TrainingMethod]] = {
    "NN-relief by weights": lambda share: NNRelief(),
    "NN-relief by kernels": lambda share: KERNELS,
    "kernel magnitude": lambda share: replace(KERNELS, exponent=0.0),  # without activity, the rest alike
    "irrelevance decay": lambda share: IrrelevanceDecay(gamma=1e-4),
    "gradual magnitude": lambda share: GradualMagnitude(share=share, vectors=True),
}


@dataclass(frozen=True)
class Augmented:
    """Training images without the held-out ones, shifted and mirrored anew in every epoch."""

    data: ImageData
    batch: int = 128

    def __len__(self) -> int:
        return (len(self.data.train_x) - HELD_OUT) // self.batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        order = torch.randperm(len(self.data.train_x) - HELD_OUT)[: len(self) * self.batch]
        for index in order.split(self.batch):
            x = augment(self.data.normalise(self.data.train_x[index]), generator, flip=True)
            yield x.contiguous(memory_format=torch.channels_last), self.data.train_y[index]


def start(name: str, method: str, share: float, seed: int) -> tuple[nn.Module, Masks | None]:
    """Return the network that a cell starts from, with its masks: the one of the share before."""
    model = pretrained(name).to(memory_format=torch.channels_last)
    if share == SHARES[0]:
        return model, None
    path = network(name, method, SHARES[SHARES.index(share) - 1], seed)
    if not path.exists():
        raise SystemExit(
            f"{path} is missing: run the cell of the share before, without its row in the table."
        )
    tensors = load_file(path)
    masks = {key: tensors.pop(key).bool() for key in list(tensors) if key.startswith("masks ")}
    model.load_state_dict(tensors)
    return model, Masks({key.removeprefix("masks "): mask for key, mask in masks.items()})


def network(name: str, method: str, share: float, seed: int) -> Path:
    return BUILD / f"{name}-{method}-{share:g}-{seed}.safetensors".replace(" ", "-")


def row(name: str, method: str, share: float, seed: int, epochs: int, data: ImageData) -> dict[str, object]:
    """Return the finished row of a cell."""
    clock = time.perf_counter()
    original = pretrained(name).to(memory_format=torch.channels_last)
    given, masks = start(name, method, share, seed)
    held = list(batches(data.normalise(data.train_x[-HELD_OUT:]), data.train_y[-HELD_OUT:], 250))
    test = list(batches(data.normalise(data.test_x), data.test_y, 250))
    gradual, rounds = method == "gradual magnitude", ROUNDS[share]  # gradual magnitude has rounds of its own
    path = network(name, method, share, seed)
    folder = path.with_suffix("")
    total = epochs * rounds
    each = total if gradual or rounds == 1 else max(2 * epochs // 5, 1)
    rounds = 1 if gradual else rounds
    options = Training(
        Augmented(data), epochs=each, iterations=rounds, finetune=total - rounds * each,
        teacher=Teacher(original) if name in TAUGHT else None,
        validation=Validation(held), schedule=Cosine(), bf16=True,
        checkpoints=Checkpoints(folder, resume=True, every=50),
        optimizer=partial(torch.optim.SGD, lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4),
    )  # fmt: skip
    found = train(
        given, METHODS[method](share), options, share=None if gradual else share, masks=masks, seed=seed,
        calibration=calibration(data, 1000, seed).split(100),
    )  # fmt: skip
    kept = {f"masks {key}": mask.to(torch.uint8) for key, mask in found.masks.items()}
    save_file({k: v.contiguous() for k, v in (found.model.state_dict() | kept).items()}, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)
    example = (held[0][0][:1],)
    removal = without_dead_units(found.model.eval(), example)
    model = removal.model
    left = sum(int(p.count_nonzero()) for p in model.parameters())
    result = dict(zip(KEYS, (name, method, f"{share:g}", seed), strict=True)) | {
        "rounds": sum(ROUNDS[s] for s in SHARES if s >= share),
        "epochs": sum(ROUNDS[s] for s in SHARES if s >= share) * epochs,
        "acc_dense": top1(original, test),
        "acc_test": top1(model, test),
        "acc_held_out": found.metric,
        "params_left_percent": 100 * left / sum(p.numel() for p in original.parameters()),
        "units_left": removal.units_left,
        "macs_ratio": macs(model, example) / macs(original, example),
        "bytes_raw": stored_bytes(model),
        "bytes_zip": zipped_bytes(model),
        "seconds": time.perf_counter() - clock,
    }
    command = f"--model {name} --methods '{method}' --shares {share:g} --seeds {seed} --epochs {epochs}"
    result |= TABLE.provenance(f"python benchmarks/cifar_connections.py {command}")
    shutil.rmtree(folder, ignore_errors=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--shares", nargs="+", type=float, choices=SHARES, default=list(SHARES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10, help="of each round")
    options = parser.parse_args()
    data = load_images("cifar10")
    names = [options.model] if options.model else MODELS
    for seed, share, name, method in product(options.seeds, options.shares, names, options.methods):
        if (name, method, f"{share:g}", str(seed)) in TABLE.present():
            continue
        finished = row(name, method, share, seed, options.epochs, data)
        TABLE.append(finished)
        print(f"{name}, {method}, seed {seed}, {share:.0%}: {finished['acc_test']:.4f}", flush=True)


if __name__ == "__main__":
    main()
