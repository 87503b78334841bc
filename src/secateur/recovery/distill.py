"""Label-free distillation, block by block: gradient steps on unlabelled samples towards the dense network's values."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.graph import Graph, Kept, Ref
from secateur.ground.errors import CalibrationError
from secateur.ground.processes import in_step, summed
from secateur.ground.progress import track
from secateur.ground.tensors import floating
from secateur.statistics import Calibration, Forward, state_tensors
from secateur.statistics.forward import Watch

from .distance import held_out_distances
from .jobs import Job, jobs, masked

__all__ = ["Distill"]


@dataclass(frozen=True)
class Distill:
    """Gradient steps (Adam) that bring what pruned blocks make, and the outputs, closer to the dense network's.

    Each touched layer is compared where its output counts: at the residual sum that it enters, else behind its
    BatchNorm, on the channels that are left, relative to their variance; what only a ReLU reads does not count below
    zero. Weights, biases and BatchNorm gains of touched layers learn, for at most `steps` minibatches of `batch`
    samples, the rate `lr` falling linearly to zero. One calibration sample in four is held out: if the outputs there do
    not come closer, nothing is changed. With `seconds`, the run also ends by the clock and is no longer
    deterministic. No labels are used, but this is training: it is never part of what is reported as "without training".
    """

    steps: int = 200
    lr: float = 1e-3
    batch: int = 32
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"steps={self.steps} and batch={self.batch} must be at least 1.")
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr} must be above 0.")
        if self.seconds is not None and not self.seconds >= 0:
            raise ValueError(f"seconds={self.seconds} must be 0 or above.")

    def __call__(
        self,
        graph: Graph,
        kept: Kept,
        tensors: Mapping[str, Tensor],
        calibration: Iterable[Any],
        seed: int = 0,
    ) -> dict[str, Tensor]:
        """Return the tensors of a pruned network, in the dense network's shapes, distilled or as they were.

        Raises:
            CalibrationError: the data are empty or do not fit, or the model takes one batch size only.
        """
        batches = Calibration.of(calibration, graph.program)
        if not batches.dynamic:
            raise CalibrationError(
                f"Distillation holds samples out of each batch, but this model exports only with the batch size of "
                f"the example ({graph.program.batch}): leave it away, or let the forward accept any batch size."
            )
        touched = jobs(graph, kept, producers=True, residual=True)
        learned = {name: tensors[name].clone().requires_grad_() for name in _parameters(graph, touched)}
        if not learned:
            return dict(tensors)
        dense = Forward(graph.program, state_tensors(graph.program))
        optimizer = torch.optim.Adam(list(learned.values()), lr=self.lr)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-3, self.steps)
        samples = _minibatches(batches, self.batch, torch.Generator().manual_seed(seed))
        end = time.monotonic() + self.seconds if self.seconds is not None else float("inf")
        for _ in track(range(self.steps), "distilling"):
            with in_step():
                inputs = next(samples, None)  # a process may have no share of the samples
                if inputs is not None:
                    with torch.enable_grad():
                        current = masked(graph, {**tensors, **learned}, kept)
                        loss = _distance(
                            dense, Forward(graph.program, current, gradients=True), touched, inputs
                        )
                    gradients = torch.autograd.grad(loss, list(learned.values()))
                else:
                    gradients = tuple(torch.zeros_like(value) for value in learned.values())
            shares, late = summed(
                torch.tensor([inputs is not None, time.monotonic() > end]).double()
            ).tolist()
            if late or not shares:
                break
            for value, gradient in zip(learned.values(), gradients, strict=True):
                value.grad = summed(gradient.contiguous()) / shares  # memory is added up as it lies
            optimizer.step()
            schedule.step()
        found = {name: value.detach() for name, value in learned.items()}
        after = masked(graph, {**tensors, **found}, kept)
        distances = held_out_distances(graph, (tensors, after), batches)
        return after if distances[1] < distances[0] else dict(tensors)


def _parameters(graph: Graph, touched: list[Job]) -> list[str]:
    """Return the canonical names of weights, biases and BatchNorm gains and shifts of layers."""
    names: dict[str, None] = {}
    for job in touched:
        names |= dict.fromkeys(n for n in (job.layer.weight, job.layer.bias) if n is not None)
        if job.outlet.batch_norm is not None:
            affine = [a for a in job.outlet.batch_norm.args[1:3] if isinstance(a, Ref)]
            names |= dict.fromkeys(graph.program.parameters[a.name][0] for a in affine)
    return [name for name in names if name not in graph.program.buffers]


def _minibatches(batches: Calibration, size: int, generator: torch.Generator) -> Iterator[list[Any]]:
    """Yield samples that are not held out, without end, those of a calibration batch in random order."""
    while True:
        empty = True
        for flat, held in batches.held_out():
            order = torch.randperm(len(held), generator=generator)
            for index in order[~held[order]].split(size):
                empty = False
                yield batches.take(flat, torch.isin(torch.arange(len(held)), index))
        if empty:
            return


def _distance(dense: Forward, pruned: Forward, touched: list[Job], inputs: list[Any]) -> Tensor:
    """Return the mean relative distance where touched layers' outputs count, plus that of the outputs."""
    wishes: dict[str, Tensor] = {}
    terms: list[Tensor] = []

    def wish(job: Job) -> Watch:
        def call(args: tuple[Any, ...], result: Tensor) -> None:
            wishes[job.outlet.end] = _left(job, result).clone()

        return call

    def compare(job: Job) -> Watch:
        def call(args: tuple[Any, ...], result: Tensor) -> None:
            terms.append(_relative(wishes[job.outlet.end], _left(job, result), job.outlet.rectified))

        return call

    expected = floating(dense.run(inputs, {}, {job.outlet.end: wish(job) for job in touched}, whole=True))
    found = floating(pruned.run(inputs, {}, {job.outlet.end: compare(job) for job in touched}, whole=True))
    outputs = [_relative(a, b) for a, b in zip(expected, found, strict=True)]
    return torch.stack(terms).mean() + torch.stack(outputs).mean()


def _left(job: Job, value: Tensor) -> Tensor:
    return value.index_select(job.layer.channel_dim, job.channels().to(value.device))


def _relative(wish: Tensor, found: Tensor, rectified: bool = False) -> Tensor:
    """Return the mean squared difference over the variance of what is wished for."""
    difference = torch.where(wish > 0, found - wish, found.relu()) if rectified else found - wish
    return (difference**2).mean() / max(float(wish.var(correction=0)), torch.finfo(wish.dtype).tiny)
