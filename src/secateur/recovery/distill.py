"""Repair without labels: gradient steps on unlabelled samples towards what the dense network makes of them."""

from __future__ import annotations

import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.graph import Graph, Kept, Ref
from secateur.ground.describe import describe
from secateur.ground.errors import CalibrationError
from secateur.ground.processes import digest, first_process, in_step, processes, summed
from secateur.ground.progress import counting
from secateur.statistics import Calibration, Forward, state_tensors
from secateur.training import Checkpoints, OneCycle

from .augment import Pictures, augmented
from .descent import Descent
from .distance import held_out_distances
from .imitation import Point, Wish, distance, points, remembered, wishes
from .jobs import Job, jobs
from .samples import minibatches, pooled
from .shrunk import Shrunk

__all__ = ["Distill"]

JUDGED = 20  # times in a run
MARGIN = 0.02  # of the distance: what is gained beyond that is more than chance among some hundred samples
PATIENCE = 4  # judgements in a row, each worse than the one before it, after which a run ends
LATE = 2 / 3  # but not before this share of it: at high rates outputs are farther off for a while


@dataclass(frozen=True)
class Distill:
    """Gradient steps (Adam) that bring what pruned branches make, and the outputs, closer to the dense network's.

    The two networks are compared at the outputs and at the residual sums that pruned branches enter, or behind each
    touched layer where there are no such sums: the mean squared difference over the variance. What only a ReLU reads
    does not count below zero. Weights, biases and BatchNorm gains of touched layers learn, in `steps` minibatches of
    `batch` samples, the rate going up to `lr` and down again in one cycle; running statistics stay.

    No labels are used, but this is training: it is never part of what is reported as "without training".

    *Augmentation.* In every step `augment` makes other inputs of the minibatch: by default `Pictures`, which moves,
    mirrors and mixes what looks like pictures (the only input, floating, (N, C, H, W), at most four channels),
    and leaves all other data as they are. A function of yours takes the inputs as arguments and returns as many of the
    same shapes and types; it draws from torch's own generator. ``None`` augments nothing.

    *Held out.* One calibration sample in four never trains. Twenty times in a run the outputs' distance on these is
    measured (progress shows it); the tensors with the least one are returned. The run ends early where the
    distance grows in the last third of the cycle. If outputs come no closer, by two parts in a hundred at least,
    nothing is changed, and a warning says so.

    *Time.* With `seconds` the cycle is over by the clock, if that is sooner; the run is then not deterministic.

    *Memory.* Beside the dense network: what learns five times (gradients, Adam's two moments, the best so far), all
    values of one minibatch in the smaller network, and the samples themselves, where they fit into `memory` bytes;
    else they are drawn from one calibration batch after the other. Where nothing is augmented, the dense network runs
    once over them if what it makes of them, too, fits into so many bytes.

    *Checkpoints.* With `checkpoints` a run that was killed goes on where it was last judged, and ends with the same
    tensors. A step runs in the shapes of the smaller network wherever its calls allow it.
    """

    steps: int = 1500
    lr: float = 1e-3
    batch: int = 64
    augment: Pictures | Callable[..., Any] | None = field(default_factory=Pictures)
    seconds: float | None = None
    memory: int = 1 << 30
    checkpoints: Checkpoints | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"steps={self.steps} and batch={self.batch} must be at least 1.")
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr} must be above 0.")
        if self.augment is not None and not callable(self.augment):
            raise ValueError(
                f"augment={self.augment!r} must be a function of inputs, or None to augment nothing."
            )
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
            CalibrationError: the data are empty or do not fit, the model takes one batch size only, or the
                augmentation returns something else than inputs.
            CheckpointError: a checkpoint is of another run, or cannot be read or written.
        """
        batches = Calibration.of(calibration, graph.program)
        if not batches.dynamic:
            raise CalibrationError(
                f"Distillation holds samples out of each batch, but this model exports only with the batch size of "
                f"the example ({graph.program.batch}): leave it away, or let the forward accept any batch size."
            )
        touched = jobs(graph, kept, producers=True, residual=True)
        names = _parameters(graph, touched)
        if not names:
            return dict(tensors)
        shrunk = Shrunk(graph, kept, tensors, pytree.tree_leaves(graph.program.example))
        run = _Run(self, graph, shrunk, tensors, names, points(touched), batches, seed)
        found = run.best()
        return dict(tensors) if found is None else shrunk.full(found, tensors)


class _Run:
    """One descent, from repaired tensors on."""

    def __init__(
        self,
        options: Distill,
        graph: Graph,
        shrunk: Shrunk,
        tensors: Mapping[str, Tensor],
        names: list[str],
        at: list[Point],
        batches: Calibration,
        seed: int,
    ) -> None:
        self._options, self._graph, self._shrunk = options, graph, shrunk
        self._at, self._batches, self._seed = at, batches, seed
        self._fixed = shrunk.small(tensors)
        self._dense = Forward(graph.program, state_tensors(graph.program))
        start = {name: self._fixed[name] for name in names}
        self._descent = Descent(start, self._distance(start))
        plain = describe(replace(options, checkpoints=None))
        self._recipe = {"distill": plain, "seed": seed, "start": digest(self._fixed)}

    def best(self) -> dict[str, Tensor] | None:
        """Return the tensors that came closest on the held-out samples, or None if none came closer."""
        descent, options = self._descent, self._options
        if options.checkpoints is not None:
            descent.resume(options.checkpoints, self._recipe)
        with in_step():
            pool = pooled(self._batches, options.memory)
            known = self._known(pool)
        drawn = islice(minibatches(self._batches, pool, options.batch, self._seed), descent.steps, None)
        cycle, began = OneCycle(), time.monotonic() - descent.seconds
        with counting("distilling", options.steps, descent.steps) as advance:
            done = self._done()
            while done < 1:
                with in_step():
                    flat, index = next(drawn, (None, None))  # a process may have no share of the samples
                    gradients = self._gradients(
                        flat, known if index is None or known is None else known.of(index)
                    )
                shares, elapsed = summed(
                    torch.tensor([flat is not None, time.monotonic() - began]).double()
                ).tolist()
                descent.seconds = elapsed / processes()
                late = options.seconds is not None and descent.seconds >= options.seconds
                if not shares or (late and not descent.steps):
                    break
                descent.step(gradients, shares, options.lr * cycle(done, 1))
                before, done = done, self._done()
                if int(JUDGED * done) > int(JUDGED * before):
                    self._judge()
                    if descent.worse >= PATIENCE and done > LATE:
                        break
                advance(f"{descent.least / descent.start:.1%} of the distance" if descent.start else "")
        if descent.least < (1 - MARGIN) * descent.start:
            return descent.best
        warnings.warn(f"Distillation changed nothing, because {self._reason()}.", stacklevel=4)
        return None

    def _done(self) -> float:
        """Return the share of the run that is over, by steps or by the clock."""
        options, descent = self._options, self._descent
        steps = descent.steps / options.steps
        if options.seconds is None or not descent.steps:
            return steps
        return max(steps, min(descent.seconds / options.seconds, 1.0) if options.seconds else 1.0)

    def _known(self, pool: list[Any] | None) -> Wish | None:
        """Return what the dense network makes of all samples, where no augmentation makes others of them."""
        augment, options = self._options.augment, self._options
        same = augment is None or (
            isinstance(augment, Pictures) and pool is not None and not augment.changes(pool)
        )
        if pool is None or not same:
            return None
        return remembered(self._dense, self._at, self._batches, pool, options.batch, options.memory)

    def _gradients(self, flat: list[Any] | None, wish: Wish | None) -> tuple[Tensor, ...]:
        learned = self._descent.learned
        if flat is None:
            return tuple(torch.zeros_like(value) for value in learned.values())
        augment = self._options.augment
        if augment is not None and wish is None:
            flat = augmented(augment, flat, zlib.crc32(repr((self._seed, self._descent.steps)).encode()))
        if wish is None:
            wish = wishes(self._dense, self._at, flat)
        with torch.enable_grad():
            network = self._shrunk.forward({**self._fixed, **learned}, gradients=True)
            loss = distance(network, self._at, flat, wish)
        return torch.autograd.grad(loss, list(learned.values()))

    def _judge(self) -> None:
        self._descent.judge(self._distance(self._descent.now()))
        checkpoints = self._options.checkpoints
        if checkpoints is not None:
            with in_step():
                if first_process():
                    self._descent.save(checkpoints, self._recipe)

    def _distance(self, learned: Mapping[str, Tensor]) -> float:
        """Return the squared distance of the outputs from the dense network's on the held-out samples."""
        network = self._shrunk.forward({**self._fixed, **learned})
        return held_out_distances(self._dense, [network], self._batches)[0]

    def _reason(self) -> str:
        options, descent = self._options, self._descent
        if descent.steps:
            return (
                f"in {descent.steps} steps the outputs on held-out samples came not {MARGIN:.0%} closer to the dense "
                f"network's: give a smaller lr than {options.lr:g}, or more samples"
            )
        if options.seconds is not None:
            return f"seconds={options.seconds:g} were over before its first step was: give more"
        return "no sample is left to train on: give more"


def _parameters(graph: Graph, touched: list[Job]) -> list[str]:
    """Return the canonical names of weights, biases and BatchNorm gains and shifts of layers."""
    names: dict[str, None] = {}
    for job in touched:
        names |= dict.fromkeys(n for n in (job.layer.weight, job.layer.bias) if n is not None)
        if job.outlet.batch_norm is not None:
            affine = [a for a in job.outlet.batch_norm.args[1:3] if isinstance(a, Ref)]
            names |= dict.fromkeys(graph.program.parameters[a.name][0] for a in affine)
    return [name for name in names if name not in graph.program.buffers]
