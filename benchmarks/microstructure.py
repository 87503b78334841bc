"""Micro-structures without training, measured: python benchmarks/microstructure.py [--models ...] [--methods ...]

The whole grid of block shapes and shares, on 1,000 training images without labels; finished cells are skipped. The
statistics of a model are summed once: `projection` takes the nearest weights, `one-pass` solves what is left on the
dense network's inputs, `sequential` (some cells) on those of the network so far. Where zero and unified blocks stand
together, half of what is not zero is unified. `--tune` compares criteria on held-out images and writes nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from microstructure_table import accuracy, append, is_there, keys
from torch import Tensor, nn
from training import HELD_OUT

from secateur.blocks import Block, BlockPattern
from secateur.data import ImageData, calibration, load_images
from secateur.graph import Graph, trace
from secateur.ground.tensors import tensors_of
from secateur.methods import MicroStructured
from secateur.methods.block_costs import Criterion, OutputError, WeightError
from secateur.recovery import Compensate
from secateur.recovery.batch_norm import re_estimated
from secateur.recovery.jobs import Job
from secateur.recovery.regressions import OutputRegression
from secateur.statistics import Calibration, Statistics, collect, state_tensors
from secateur.zoo import pretrained

MODELS = {"resnet20-cifar10": "cifar10", "vgg16bn-quarter-cifar10": "cifar10"}
BLOCKS = (Block(8, 1), Block(4, 1), Block(4, 4), Block(1, 4))
RATIOS = (0.7, 0.5, 0.8, 0.9)
IMAGES = 1_000
ONCE = Compensate(sweeps=1)


@dataclass(frozen=True)
class Cell:
    """One structure and how the rest is repaired."""

    method: str  # "projection", "one-pass", "sequential"
    structure: MicroStructured

    def keys(self, model: str) -> dict[str, str]:
        s = self.structure
        return keys(model, self.method, s.block, s.zero, s.unify, "none", 0)


def cells(methods: list[str]) -> Iterator[Cell]:
    for ratio in RATIOS:
        for block in BLOCKS:
            for zero, unify in ((ratio, 0.0), (ratio, round((1 - ratio) / 2, 3)), (0.0, ratio)):
                for method in methods:
                    if method != "sequential" or (block == Block(8, 1)):
                        yield Cell(method, MicroStructured(block, zero, unify))


class Prepared:
    """A network with all that its cells share, each thing made when it is first asked for."""

    def __init__(self, name: str) -> None:
        self.name, self.data = name, load_images(MODELS[name])
        self.model = pretrained(name)
        self.images = list(calibration(self.data, IMAGES, 0).split(100))
        self.graph: Graph = trace(self.model, self.images[0][:2])
        self.dense = state_tensors(self.graph.program)
        self.partitions = MicroStructured(Block(1, 1)).layers(self.model).partitions

    @cached_property
    def accuracy(self) -> float:
        return accuracy(self.model, self.data)

    @cached_property
    def statistics(self) -> Statistics:
        nodes = [layer.node for layer in self.graph.layers if layer.weight in self.partitions]
        return collect(self.graph, (), self.images, layers=nodes, patches=True)

    @cached_property
    def regressions(self) -> list[tuple[Job, OutputRegression]]:
        jobs = ONCE.jobs(self.graph, self.partitions)
        batches = Calibration(self.images, self.graph.program)
        found = ONCE.gathered(self.graph, jobs, self.dense, self.dense, batches, IMAGES)
        return list(zip(jobs, found))

    def patterns(self, structure: MicroStructured, criterion: Criterion) -> dict[str, BlockPattern]:
        partitions = structure.layers(self.model).partitions
        statistics = self.statistics if criterion.calibrated else None
        costs = criterion(self.graph, partitions, self.dense, statistics)
        return structure.patterns(self.model, partitions, costs)

    def solved(self, method: str, patterns: Mapping[str, BlockPattern]) -> nn.Module:
        if method == "projection":
            return self.filled(
                {name: pattern.project(self.dense[name]) for name, pattern in patterns.items()}
            )
        if method == "sequential":
            return self.filled(Compensate()(self.graph, patterns, self.dense, self.images))
        current = dict(self.dense)
        for job, regression in self.regressions:
            current |= ONCE.solved(job, regression, patterns[job.layer.weight], current)
        return self.filled(re_estimated(self.graph, current, Calibration(self.images, self.graph.program)))

    def filled(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        model = pretrained(self.name)
        known = tensors_of(model)
        with torch.no_grad():
            for name, value in tensors.items():
                known[name].copy_(value)
        return model


def run(prepared: Prepared, cell: Cell) -> None:
    if is_there(cell.keys(prepared.name)):
        return
    start = time.perf_counter()
    patterns = prepared.patterns(cell.structure, WeightError())
    model = prepared.solved(cell.method, patterns)
    seconds = time.perf_counter() - start
    append(
        cell.keys(prepared.name), prepared.data, prepared.graph, model, patterns, prepared.accuracy,
        accuracy(model, prepared.data), seconds,
        f"python benchmarks/microstructure.py --models {prepared.name} --methods {cell.method}",
    )  # fmt: skip


def tune(prepared: Prepared) -> None:
    """Print accuracies on the held-out training images, which no cell and no calibration sees."""
    data: ImageData = prepared.data
    n = len(data.train_x) - HELD_OUT
    data = replace(data, test_x=data.train_x[n:][::2], test_y=data.train_y[n:][::2])
    print(f"{prepared.name}: dense {accuracy(prepared.model, data):.4f}", flush=True)
    criteria = (
        WeightError(),
        OutputError(repaired=False),
        OutputError(),
        OutputError(damping=1e-3),
        OutputError(damping=0.1),
    )
    for zero, unify in ((0.7, 0.0), (0.5, 0.25)):
        structure = MicroStructured(Block(8, 1), zero, unify)
        for criterion in criteria:
            start = time.perf_counter()
            model = prepared.solved("one-pass", prepared.patterns(structure, criterion))
            seconds = time.perf_counter() - start
            print(f"{zero} {unify} {criterion}: {accuracy(model, data):.4f}, {seconds:.1f} s", flush=True)
    for method in ("projection", "sequential"):
        start = time.perf_counter()
        model = prepared.solved(method, prepared.patterns(MicroStructured(zero=0.7), WeightError()))
        print(
            f"0.7 0.0 {method}: {accuracy(model, data):.4f}, {time.perf_counter() - start:.1f} s", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    methods = ["projection", "one-pass", "sequential"]
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no cell after that long")
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    start = time.perf_counter()
    for name in options.models:
        prepared = Prepared(name)
        if options.tune:
            tune(prepared)
            continue
        for cell in cells(options.methods):
            if time.perf_counter() - start < options.seconds:
                run(prepared, cell)


if __name__ == "__main__":
    main()
