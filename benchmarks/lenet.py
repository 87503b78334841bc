"""The fewest connections of LeNets on MNIST and Fashion-MNIST: python benchmarks/lenet.py [--model lenet300]

A cell starts from a dense network of the same seed (trained once, kept in build/lenet). Rounds of pruning and training
take it down in stretches; after each, units that are dead by then are removed physically, so that what follows trains a
small network, in which connections between living units may come back. A last stretch trains with fixed masks. What
counts in the end is the network without dead units: its weights and biases that are not zero over the original's.
All training images are shifted by up to one pixel, or small networks overfit them. The last 5,000 choose epochs and
settled every option here; the test images only give the last column of a finished cell. Finished cells are appended to
results/lenet.csv; those that are there are skipped.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from table import Table
from torch import Tensor, nn

from secateur.data import HELD_OUT, load_images
from secateur.measure import batches, macs, stored_bytes, top1
from secateur.methods import GradualMagnitude, IrrelevanceDecay, Lobster, NNRelief
from secateur.methods.dead_units import without_dead_units
from secateur.report import zipped_bytes
from secateur.training import Training, TrainingMethod, Validation, train
from secateur.training.options import OptimizerFactory
from secateur.training.schedules import Cosine
from secateur.zoo.models import lenet5, lenet300

KEYS = ("model", "dataset", "method", "variant", "optimizer", "seed")
TABLE = Table(
    Path("results/lenet.csv"), KEYS,
    (*KEYS, "epochs", "test_error_percent", "params_left_percent", "units_left", "macs_ratio", "bytes_raw", "bytes_zip",
     "seconds", "commit", "command"),
)  # fmt: skip
MODELS: dict[str, Callable[[], nn.Module]] = {"lenet300": lenet300, "lenet5": lenet5}
POINT = {"lenet300": 0.0145, "lenet5": 0.0048}  # the chosen share of the parameters
CURVE = {"lenet300": (0.05, 0.025, 0.01), "lenet5": (0.02, 0.01, 0.003)}
BATCH, SHIFT = 256, 1

SGD_RATES = {"lenet300": 0.1, "lenet5": 0.02}  # at 0.1 LeNet-5 diverges
DECAY = {"NN-relief": 5e-4}  # as in the authors' code: what no picture needs shrinks while the masks do
METHODS: dict[str, Callable[[float], TrainingMethod]] = {
    "NN-relief": lambda share: NNRelief(),
    "NN-relief, paper form": lambda share: NNRelief.paper(alpha_conv=0.9, alpha_linear=0.95),
    "irrelevance decay": lambda share: IrrelevanceDecay(gamma=1e-4),
    "gradual magnitude": lambda share: GradualMagnitude(share=share, every=50, vectors=True),
    "LOBSTER": lambda share: Lobster(strength=1e-4),
}


@dataclass(frozen=True)
class Cell:
    model: str
    dataset: str
    method: str
    share: float
    optimizer: str = "Adam"
    seed: int = 0

    @property
    def key(self) -> tuple[str, ...]:
        variant = f"{100 * self.share:g} %" if self.method != "dense" else ""
        return (self.model, self.dataset, self.method, variant, self.optimizer, str(self.seed))


def cells() -> Iterator[Cell]:
    """Yield the cells, the most telling first."""
    main = ("NN-relief", "irrelevance decay", "NN-relief, paper form")
    for model in MODELS:
        for seed in range(5):
            yield Cell(model, "mnist", "dense", 1.0, seed=seed)
            yield from (Cell(model, "mnist", method, POINT[model], seed=seed) for method in main)
    for model in MODELS:
        yield from (Cell(model, "mnist", method, share) for share in CURVE[model] for method in main)
        yield from (Cell(model, "mnist", "gradual magnitude", POINT[model], seed=seed) for seed in (0, 1))
        yield Cell(model, "mnist", "NN-relief, paper form", POINT[model], "SGD")
        yield Cell(model, "mnist", "LOBSTER", POINT[model], "SGD")
    for model in MODELS:
        for seed in (0, 1):
            yield Cell(model, "fashion-mnist", "dense", 1.0, seed=seed)
            yield from (Cell(model, "fashion-mnist", method, POINT[model], seed=seed) for method in main)


@dataclass(frozen=True)
class Images:
    """A data set in memory, 0..1: training images without the held-out ones, those, and the test set."""

    x: Tensor
    y: Tensor
    held: list[tuple[Tensor, Tensor]]
    test: list[tuple[Tensor, Tensor]]

    @staticmethod
    def load(name: str) -> Images:
        data = load_images(name)
        # Not normalised, as the paper has it: what a black pixel feeds carries nothing.
        x, test = data.train_x.float() / 255, data.test_x.float() / 255
        held = list(batches(x[-HELD_OUT:], data.train_y[-HELD_OUT:], 1000))
        return Images(x[:-HELD_OUT], data.train_y[:-HELD_OUT], held, list(batches(test, data.test_y, 1000)))

    def __len__(self) -> int:
        return len(self.x) // BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.randperm(len(self.x))[: len(self) * BATCH].split(BATCH):
            yield shifted(self.x[index]), self.y[index]


def shifted(x: Tensor) -> Tensor:
    """Move each image by up to SHIFT pixels each way, black coming in."""
    n, _, height, width = x.shape
    padded = nn.functional.pad(x, (SHIFT,) * 4)
    down, right = torch.randint(2 * SHIFT + 1, (2, n, 1, 1))
    rows = down + torch.arange(height).view(-1, 1)
    columns = right + torch.arange(width)
    return padded[torch.arange(n).view(n, 1, 1), 0, rows, columns][:, None]


@dataclass(frozen=True)
class Stretch:
    """Rounds of some epochs down to a share of the parameters, `last` epochs with fixed masks; then dead units go."""

    share: float
    rounds: int
    epochs: int
    last: int = 0

    @property
    def total(self) -> int:
        return self.rounds * self.epochs + self.last


WAISTS = {
    "lenet300": (Stretch(0.05, 4, 3),),
    "lenet5": (Stretch(0.05, 3, 2), Stretch(0.015, 3, 2)),
}  # what follows trains a smaller network
ENDS = {"lenet300": Stretch(0.0, 6, 6, 40), "lenet5": Stretch(0.0, 4, 3, 30)}
DENSE_EPOCHS = {"lenet300": 15, "lenet5": 8}


def dense(cell: Cell, images: Images) -> nn.Module:
    """Return the dense network of a cell, trained or from its file."""
    path = Path("build/lenet") / f"{cell.model}-{cell.dataset}-{cell.seed}.safetensors"
    torch.manual_seed(cell.seed)
    model = MODELS[cell.model]()
    if path.exists():
        model.load_state_dict(load_file(path))
        return model
    # Gradual magnitude pruning to everything is plain training.
    options = training(images, optimizer_of(cell), 1, DENSE_EPOCHS[cell.model], bf16=True)
    model = train(model, GradualMagnitude(share=1.0), options, seed=cell.seed).model
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), f"{path}.tmp")
    os.replace(f"{path}.tmp", path)
    return model


def optimizer_of(cell: Cell) -> OptimizerFactory:
    if cell.optimizer == "Adam":
        return partial(torch.optim.Adam, lr=5e-3, weight_decay=DECAY.get(cell.method, 0.0))
    return partial(torch.optim.SGD, lr=SGD_RATES[cell.model], momentum=0.9)


def training(
    images: Images, optimizer: OptimizerFactory, rounds: int, epochs: int, last: int = 0, bf16: bool = False
) -> Training:
    return Training(
        images, epochs=epochs, iterations=rounds, finetune=last, schedule=Cosine(), optimizer=optimizer,
        validation=Validation(images.held), bf16=bf16,
    )  # fmt: skip


def stretches(cell: Cell) -> list[Stretch]:
    end = replace(ENDS[cell.model], share=cell.share)
    return [*(waist for waist in WAISTS[cell.model] if waist.share > cell.share), end]


def pruned(cell: Cell, model: nn.Module, images: Images) -> tuple[nn.Module, int]:
    """Return the small network of a cell and the units that it has left."""
    total = sum(p.numel() for p in model.parameters())
    units = 0
    for stretch in stretches(cell):
        target = min(1.0, stretch.share * total / sum(p.numel() for p in model.parameters()))
        gradual = cell.method == "gradual magnitude"  # has its own rounds
        rounds, epochs = (1, stretch.rounds * stretch.epochs) if gradual else (stretch.rounds, stretch.epochs)
        options = training(images, optimizer_of(cell), rounds, epochs, stretch.last, bf16=not stretch.last)
        model = train(
            model, METHODS[cell.method](target), options, share=None if gradual else target, seed=cell.seed
        ).model
        removal = without_dead_units(model.eval(), images.held[0][0][:2])
        model, units = removal.model, removal.units_left
    return model, units


def row(cell: Cell, images: Images) -> dict[str, object]:
    """Return the finished row of a cell."""
    original = dense(cell, images)
    start = time.perf_counter()
    example = (images.held[0][0][:1],)
    if cell.method == "dense":
        model, epochs = original, DENSE_EPOCHS[cell.model]
        units = without_dead_units(original.eval(), example).units_left
    else:
        model, units = pruned(cell, original, images)
        epochs = sum(stretch.total for stretch in stretches(cell))
    left = sum(int(p.count_nonzero()) for p in model.parameters())
    held = 100 * (1 - top1(model, images.held))
    test = 100 * (1 - top1(model, images.test))
    print(f"{' '.join(cell.key)}: {left} parameters, error {held:.2f} held out, {test:.2f} test", flush=True)
    command = f"python benchmarks/lenet.py --model {cell.model} --dataset {cell.dataset} --seeds {cell.seed}"
    result = dict(zip(KEYS, cell.key, strict=True)) | {
        "epochs": epochs,
        "test_error_percent": test,
        "params_left_percent": 100 * left / sum(p.numel() for p in original.parameters()),
        "units_left": units,
        "macs_ratio": macs(model, example) / macs(original, example),
        "bytes_raw": stored_bytes(model),
        "bytes_zip": zipped_bytes(model),
        "seconds": time.perf_counter() - start,
    }
    return result | TABLE.provenance(command)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--dataset", choices=("mnist", "fashion-mnist"))
    parser.add_argument("--methods", nargs="+", choices=("dense", *METHODS), default=["dense", *METHODS])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    options = parser.parse_args()
    loaded: dict[str, Images] = {}
    for cell in cells():
        chosen = cell.model == (options.model or cell.model) and cell.dataset == (
            options.dataset or cell.dataset
        )
        chosen = chosen and cell.seed in options.seeds and cell.method in options.methods
        if not chosen or cell.key in TABLE.present():
            continue
        if cell.dataset not in loaded:
            loaded = {cell.dataset: Images.load(cell.dataset)}
        TABLE.append(row(cell, loaded[cell.dataset]))


if __name__ == "__main__":
    main()
