"""Front to back: every layer is quantised on what the network so far, quantised, feeds it.

Batches wait in front of the layers of a stop, in the dense and in the quantised network (see `secateur.recovery`). The
levels of what is read come first, from a run over the stretch; another one sums the moments of what is read in these
levels. Weights are rounded on them, and a bias, or the running mean of the BatchNorm behind, takes up the mean error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from secateur.graph import Graph, Layer
from secateur.ground.levels import Levels
from secateur.ground.processes import in_step
from secateur.ground.progress import track
from secateur.recovery.compensate import job
from secateur.recovery.jobs import Job
from secateur.recovery.schedule import apart
from secateur.recovery.stops import Stop, find_stops
from secateur.recovery.sums import Sums
from secateur.recovery.waiting import copied_paused
from secateur.statistics import Calibration, Forward
from secateur.statistics.batches import counted
from secateur.statistics.forward import Paused, Watch
from secateur.statistics.outlets import Outlet
from secateur.statistics.patches import Rows, read_rows

from .ranges import Range
from .solve import QuantisedLayer, solved

__all__ = ["Options", "Quantised", "QuantisedLayer", "quantised", "reading"]


@dataclass(frozen=True)
class Options:
    """How layers are quantised: `bits` of weights, `most` the largest level of inputs (None: they stay as they are).

    `group` neighbouring inputs of an output share a scale, or all of them (0). Of maps `positions` positions of each
    sample count. Batches wait in at most `waiting` bytes.
    """

    bits: int = 8
    most: int | None = 255
    group: int = 0
    feedback: bool = True
    positions: int = 64
    waiting: int = 1 << 31


@dataclass(frozen=True)
class Quantised:
    """A network's tensors, quantised, and what became of each layer, by node."""

    tensors: Mapping[str, Tensor]
    layers: Mapping[str, QuantisedLayer]


def quantised(
    graph: Graph,
    layers: Sequence[Layer],
    tensors: Mapping[str, Tensor],
    batches: Calibration,
    options: Options,
    seed: int = 0,
) -> Quantised:
    """Return the tensors of a network with some layers quantised, and how.

    Raises:
        CalibrationError: the data are empty, or make values that are not finite.
    """
    work = _Work(graph, layers, tensors, options)
    waiting = [*_arriving(batches, seed)]
    samples = counted(
        torch.tensor(sum(b.samples for b in waiting))
    )  # the same in all processes, as stops have to be
    for number, stop in enumerate(_stops(graph, layers, samples, options)):
        label = f"quantising {stop.jobs[0].layer.module} ({number + 1})"
        waiting = work.stop(stop, waiting, label)
    return Quantised(work.tensors, work.found)


def reading(layer: Layer, levels: Levels) -> Watch:
    """Return what makes a layer's node read its input in levels."""

    def read(args: tuple[Any, ...], result: None) -> tuple[Any, ...]:
        at = layer.position
        return (*args[:at], levels.simulated(args[at]), *args[at + 1 :])

    return read


@dataclass(frozen=True)
class _Batch:
    """A batch on its way through both networks."""

    original: Paused
    quantised: Paused
    held: Tensor
    samples: int
    seed: int


def _arriving(batches: Calibration, seed: int) -> Iterator[_Batch]:
    with in_step():
        for inputs, held in batches.held_out():
            drawn = batches.generator(inputs, seed).initial_seed()
            yield _Batch(Paused(inputs), Paused(inputs), held, batches.samples(inputs), drawn)


def _stops(graph: Graph, layers: Sequence[Layer], samples: int, options: Options) -> list[Stop]:
    """Return the layers that are quantised together, in order; batches that cannot wait start from the inputs."""
    # Nothing counts but a layer's own output: not the sum that it enters.
    jobs = [replace(job(graph, layer), outlet=Outlet(layer.node)) for layer in layers]
    found = find_stops(graph, jobs, samples, float("inf"), options.waiting)
    if found is not None:
        return found
    place = {node.name: i for i, node in enumerate(graph.program.nodes)}
    return [
        Stop(tuple(stage), "", max((j.layer.node for j in stage), key=place.__getitem__))
        for stage in apart(graph, jobs)
    ]


@dataclass
class _Work:
    """What has been quantised so far; grows stop by stop."""

    graph: Graph
    layers: Sequence[Layer]
    dense: Mapping[str, Tensor]
    options: Options
    tensors: dict[str, Tensor] = field(init=False)
    found: dict[str, QuantisedLayer] = field(default_factory=dict)
    reads: dict[str, Watch] = field(default_factory=dict)
    levels: dict[str, Levels] = field(default_factory=dict)  # by the node of a value

    def __post_init__(self) -> None:
        self.tensors = dict(self.dense)
        self.original = Forward(self.graph.program, self.dense)

    def stop(self, stop: Stop, waiting: list[_Batch], label: str) -> list[_Batch]:
        """Quantise the layers of a stop; return the batches as they wait in front of it."""
        network = Forward(self.graph.program, self.tensors)
        behind = []
        with in_step():
            for batch in waiting:
                if stop.before:
                    here = network.advance(batch.quantised, self.reads, {}, stop.before)
                    dense = self.original.advance(batch.original, {}, {}, stop.before)
                    batch = replace(batch, original=dense, quantised=here)
                behind.append(batch)
        if self.options.most is not None:
            self._choose_levels(stop, behind, network, f"{label}, levels")
        sums = self._moments(stop, behind, network, label)
        for one, watched in zip(stop.jobs, sums):
            layer = one.layer
            changed, found = solved(
                one, watched.sums.moments(), self.tensors, self.levels.get(layer.value), self.options.bits,
                self.options.group, self.options.feedback,
            )  # fmt: skip
            self.tensors |= changed
            self.found[layer.node] = found
        return behind

    def _choose_levels(self, stop: Stop, waiting: list[_Batch], network: Forward, label: str) -> None:
        """Choose the levels of what the layers read, where no layer before them did."""
        most = self.options.most
        assert most is not None
        ranges: dict[str, Range] = {}
        watches: dict[str, Watch] = {}
        for one in stop.jobs:
            layer = one.layer
            if layer.value not in self.levels and layer.value not in ranges:
                readers = [r.layer for r in stop.jobs if r.layer.value == layer.value]
                importance = torch.stack([_importance(r, self.tensors[r.weight]) for r in readers]).sum(0)
                ranges[layer.value] = Range(layer.module, layer.channel_dim, layer.position, importance)
                watches[layer.node] = ranges[layer.value].watch()
        if ranges:
            with in_step():
                for batch in track(waiting, label):
                    generator = torch.Generator().manual_seed(batch.seed)
                    for one_range in ranges.values():
                        one_range.begin(batch.held, generator)
                    network.advance(copied_paused(batch.quantised), self.reads | watches, {}, stop.end)
            self.levels |= {value: found.levels(most) for value, found in ranges.items()}
        for one in stop.jobs:
            self.reads[one.layer.node] = reading(one.layer, self.levels[one.layer.value])

    def _moments(self, stop: Stop, waiting: list[_Batch], network: Forward, label: str) -> list[_Moments]:
        watched = [_Moments(one, self.dense[one.layer.weight], self.options.positions) for one in stop.jobs]
        dense: dict[str, Watch] = {w.node: w.wish for w in watched}
        now = {w.node: w.after(self.reads.get(w.node)) for w in watched}
        with in_step():
            for batch in track(waiting, label):
                generator = torch.Generator().manual_seed(batch.seed)
                for w in watched:
                    w.begin(batch.held, generator)
                self.original.advance(copied_paused(batch.original), dense, {}, stop.end)
                network.advance(copied_paused(batch.quantised), self.reads | now, {}, stop.end)
        return watched


class _Moments:
    """Second moments of what a layer reads, a constant beside it, and of that with what the dense layer makes."""

    def __init__(self, one: Job, weight: Tensor, positions: int) -> None:
        layer = one.layer
        self.node, self._layer, self._positions = layer.node, layer, positions
        self._weight = one.split(weight).float()
        g, m, d = self._weight.shape
        self.sums = Sums(layer.module, g, d + 1, [m], torch.device("cpu"))

    def begin(self, held: Tensor, generator: torch.Generator) -> None:
        """Start a batch: draw the positions that count."""
        self._held = held
        self._rows = Rows.draw(_spatial(self._layer), self._positions, generator)

    def wish(self, args: tuple[Any, ...], result: None) -> None:
        """Look at what the dense layer reads."""
        self._wish = self._read(args) @ self._weight.mT

    def after(self, read: Watch | None) -> Watch:
        """Return what looks at what the quantised network's layer reads, behind what makes it read in levels."""

        def look(args: tuple[Any, ...], result: None) -> tuple[Any, ...]:
            args = (read(args, None) if read is not None else None) or args
            x = self._read(args)
            self.sums.read(torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2), self._held)
            self.sums.made(0, self._wish)
            return args

        return look

    def _read(self, args: tuple[Any, ...]) -> Tensor:
        return read_rows(self._layer, args[self._layer.position], self._rows).float()


def _spatial(layer: Layer) -> int:
    count = 1
    for size in layer.positions:
        count *= size
    return count


def _importance(layer: Layer, weight: Tensor) -> Tensor:
    """Return what a squared error of each input channel costs: the squared norm of the weights that read it."""
    squares = weight.double() ** 2
    norms = squares.reshape(layer.groups, -1, layer.width, *layer.taps).sum(1).reshape(layer.in_channels, -1)
    return norms.sum(1).clamp_min(torch.finfo(torch.float32).tiny)
