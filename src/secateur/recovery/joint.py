"""All layers at once: one linearised least-squares problem (Gauss-Newton) on outputs and residual sums.

Solving one layer after the other never asks what the layers behind could do about an error. Here all touched layers
move together: with the residuals ``r`` of `imitation` and their Jacobian ``J`` in all weights, ``|r + J u|^2`` is
lowered by a few iterations of conjugate gradients, which need products with ``J`` only. No label is looked at, and
there is no learning rate. Iterations are preconditioned layer by layer (see `curvature`), each layer scaled by what a
random probe shows of its true curvature: without that, one does about a tenth as much (docs/decisions/0018).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.graph import Graph, Kept
from secateur.ground.devices import moments_device
from secateur.ground.processes import in_step, summed
from secateur.ground.progress import track
from secateur.ground.tensors import floating
from secateur.statistics import Calibration, Forward, state_tensors
from secateur.statistics.forward import Watch

from .augment import Pictures, augmented
from .curvature import Blocks, Curvature, Movable, Preconditioner, movable
from .distance import held_out_distances
from .imitation import Point, Wish, difference, points, wishes
from .jobs import Job
from .samples import minibatches, pooled
from .shrunk import Shrunk

__all__ = ["Joint"]

CHUNK = 128  # samples that run at once
MEMORY = 1 << 30  # bytes; of more samples, some calibration batches take part
DIFFERENCE = 1e-2  # of a step
SHARES = (0.6,)  # of a change that are tried on held-out samples beside the whole: fewer samples overstate it


@dataclass(frozen=True)
class Joint:
    """Moves all touched layers together, by `iterations` of conjugate gradients on `samples` at most.

    Only samples that are not held out take part, each changed by `augment` (see `Distill`): by default pictures are
    moved and mirrored, for without that hundreds of samples are few beside all weights of a network. Of all iterations,
    and of their changes by a share, the one whose outputs come closest on the held-out samples is taken. Networks that
    take one batch size only, or cannot run in the smaller shapes, stay as they are.

    Costs about four passes over the samples for each iteration, through the smaller network, and memory for what the
    dense network makes of them at residual sums and outputs.
    """

    iterations: int = 4
    samples: int = 512
    augment: Pictures | Callable[..., Any] | None = field(default_factory=partial(Pictures, mix=0.0))

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.samples < 1:
            raise ValueError(f"iterations={self.iterations} and samples={self.samples} must be at least 1.")

    def __call__(
        self,
        graph: Graph,
        kept: Kept,
        tensors: Mapping[str, Tensor],
        batches: Calibration,
        touched: Sequence[Job],
        seed: int = 0,
    ) -> dict[str, Tensor]:
        """Return repaired tensors, in the dense network's shapes, moved together, or as they were.

        Raises:
            CalibrationError: the augmentation returns something else than inputs.
        """
        if not batches.dynamic:
            return dict(tensors)
        shrunk = Shrunk(graph, kept, tensors, pytree.tree_leaves(graph.program.example))
        if not shrunk.is_small:
            return dict(tensors)
        found = _Problem(self, graph, shrunk, tensors, touched, batches, seed).solved(self.iterations)
        return dict(tensors) if found is None else shrunk.full(found, tensors)


class _Problem:
    """The residuals of a pruned network, on chunks of samples, as functions of changes of its layers."""

    def __init__(
        self,
        options: Joint,
        graph: Graph,
        shrunk: Shrunk,
        tensors: Mapping[str, Tensor],
        touched: Sequence[Job],
        batches: Calibration,
        seed: int,
    ) -> None:
        self._shrunk, self._batches = shrunk, batches
        self._start = shrunk.small(tensors)
        self._layers = [found for job in touched if (found := movable(graph, job, self._start)) is not None]
        self._points = points(touched)
        self._dense = Forward(graph.program, state_tensors(graph.program))
        self._seed = seed
        with in_step():
            drawn = minibatches(batches, pooled(batches, MEMORY), min(CHUNK, options.samples), seed)
            self._chunks = [flat for flat, _ in islice(drawn, max(options.samples // CHUNK, 1))]
            if options.augment is not None:
                self._chunks = [augmented(options.augment, x, seed + i) for i, x in enumerate(self._chunks)]
            self._wishes = [_kept(wishes(self._dense, self._points, chunk)) for chunk in self._chunks]
        self._example = pytree.tree_leaves(graph.program.example)
        self._weights = self._weighted(wishes(self._dense, self._points, self._example))

    def solved(self, iterations: int) -> dict[str, Tensor] | None:
        """Return the tensors of the iteration that comes closest on held-out samples, or None if none does."""
        if not self._layers:
            return None
        here = tuple(
            torch.zeros(self._width(layer), device=self._start[layer.job.layer.weight].device)
            for layer in self._layers
        )
        precondition = self._preconditioner(here)
        residual = self._gradient(here)
        [least], best = self._distances([here]), None
        step = solved = precondition(residual)
        power = _dot(residual, solved)
        for _ in track(range(iterations), "refitting all layers together"):
            image = self._product(step)
            curvature = _dot(step, image)
            if not curvature > 0 or not power > 0:
                break
            here = _plus(here, step, power / curvature)
            residual = _plus(residual, image, -power / curvature)
            solved = precondition(residual)
            power, before = _dot(residual, solved), power
            step = _plus(solved, step, power / before)
            tried = [here, *(_scaled(here, share) for share in SHARES)]
            for distance, changes in zip(self._distances(tried), tried, strict=True):
                if distance < least:
                    least, best = distance, changes
        return None if best is None else self._tensors(best)

    def _width(self, layer: Movable) -> tuple[int, int, int]:
        weight = self._start[layer.job.layer.weight]
        return layer.g, layer.m, weight.numel() // (layer.g * layer.m) + 1

    def _exact(self, layer: Movable) -> torch.device:
        return moments_device(self._start[layer.job.layer.weight].device)

    def _tensors(self, changes: Blocks) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for layer, change in zip(self._layers, changes, strict=True):
            found |= layer.changed(self._start, change)
        return self._start | found

    def _residuals(
        self,
        changes: Blocks,
        i: int,
        reads: Mapping[str, Watch] | None = None,
        makes: Mapping[str, Watch] | None = None,
    ) -> Blocks:
        """Return the weighted differences from what is wished for on a chunk, at each point and of each output."""
        wish, found = self._wishes[i], dict[str, Tensor]()

        def watch(point: Point) -> Watch:
            def call(args: tuple[Any, ...], result: Tensor) -> None:
                value = wish.values[point.node]
                found[point.node] = difference(value, point.left(result), point.rectified)

            return call

        watched = {p.node: watch(p) for p in self._points}
        for node, other in (makes or {}).items():
            watched[node] = _both(watched.get(node), other)
        network = self._shrunk.forward(self._tensors(changes), gradients=True)
        outputs = floating(network.run(self._chunks[i], reads or {}, watched, whole=True))
        values = [found[p.node] for p in self._points]
        values += [difference(a, b, False) for a, b in zip(wish.outputs, outputs, strict=True)]
        return tuple(v * w for v, w in zip(values, self._weights, strict=True))

    def _weighted(self, example: Wish) -> list[float]:
        """Return the weight of each residual: one over the root of its variance, and of how many there are.

        `example` says how many there are, for a process may have no samples.
        """
        values = [*example.values.values(), *example.outputs]
        alike = [len(self._points)] * len(self._points) + [len(example.outputs)] * len(example.outputs)
        total = torch.zeros(len(values), dtype=torch.float64)
        for wish in self._wishes:
            total += torch.tensor(
                [float(v.var(correction=0)) for v in (*wish.values.values(), *wish.outputs)]
            )
        variances = summed(total) / max(int(summed(torch.tensor(len(self._wishes)))), 1)
        samples = self._batches.samples(self._example)
        tiny = torch.finfo(torch.float32).tiny
        return [
            (max(float(variance), tiny) * n * value.numel() / samples) ** -0.5
            for variance, n, value in zip(variances, alike, values, strict=True)
        ]

    def _gradient(self, zero: Blocks) -> Blocks:
        """Return minus the gradient of half the squared residuals."""
        total = tuple(torch.zeros_like(z) for z in zero)
        with in_step():
            for i in range(len(self._chunks)):
                leaves, values = self._traced(zero, i)
                total = _plus(total, torch.autograd.grad(values, leaves, values), -1.0)
        return tuple(summed(t.contiguous()) for t in total)

    def _product(self, direction: Blocks) -> Blocks:
        """Return ``J^T J`` times a direction, ``J`` times it by a difference.

        A preconditioned direction is about as long as the step that is right, along which residuals are as good as
        linear: so a small share of it is a good difference, and cheaper than a derivative forwards.
        """
        zero = tuple(torch.zeros_like(d) for d in direction)
        total, ahead = zero, _scaled(direction, DIFFERENCE)
        with in_step():
            for i in range(len(self._chunks)):
                leaves, values = self._traced(zero, i)
                moved = self._residuals(ahead, i)
                image = tuple((m - v.detach()) / DIFFERENCE for m, v in zip(moved, values, strict=True))
                total = _plus(total, torch.autograd.grad(values, leaves, image), 1.0)
        return tuple(summed(t.contiguous()) for t in total)

    def _traced(self, changes: Blocks, i: int) -> tuple[Blocks, Blocks]:
        """Return changes that take gradients, and the residuals of a chunk as functions of them."""
        leaves = tuple(c.clone().requires_grad_() for c in changes)
        with torch.enable_grad():
            return leaves, self._residuals(leaves, i)

    def _distances(self, tried: Sequence[Blocks]) -> list[float]:
        """Return how far the outputs are from the dense network's on the held-out samples after each change."""
        networks = [self._shrunk.forward(self._tensors(changes)) for changes in tried]
        return held_out_distances(self._dense, networks, self._batches)

    def _preconditioner(self, zero: Blocks) -> Preconditioner:
        """Return the inverse of each layer's curvature, from the inputs and probed gradients of at most two chunks."""
        moments = [Curvature(layer, self._width(layer), self._exact(layer)) for layer in self._layers]
        reads: dict[str, Watch] = {m.layer.job.layer.node: m.read for m in moments}
        makes: dict[str, Watch] = {m.layer.job.layer.node: m.make for m in moments}
        probed: list[Blocks] = []
        with in_step(), torch.enable_grad():
            for i in range(min(len(self._chunks), 2)):
                generator = torch.Generator().manual_seed(self._seed + i)
                for m in moments:
                    m.begin(generator)
                leaves = tuple(z.clone().requires_grad_() for z in zero)
                values = self._residuals(leaves, i, reads, makes)
                signs = (torch.randn(v.shape, generator=generator).to(v.device) for v in values)
                probe = torch.stack([(v * z).sum() for v, z in zip(values, signs, strict=True)])
                found = torch.autograd.grad(probe.sum(), [*(m.result for m in moments), *leaves])
                for m, gradient in zip(moments, found, strict=False):
                    m.add(gradient)
                probed.append(found[len(moments) :])
        count = max(int(summed(torch.tensor(len(probed)))), 1)
        inverses = [m.inverses() for m in moments]
        unscaled = Preconditioner(inverses, [1.0] * len(moments))
        scales = torch.zeros(len(moments), dtype=torch.float64)
        for gradients in probed:
            for k, (a, b) in enumerate(zip(gradients, unscaled(gradients), strict=True)):
                scales[k] += float((a * b).sum()) / a.numel()
        chunks = max(int(summed(torch.tensor(len(self._chunks)))), 1)
        # Of all chunks, in the mean over directions: 1 where the inverse is right.
        curvature = summed(scales) / count * chunks
        least = 1e-3 * float(curvature.max()) + torch.finfo(torch.float32).tiny
        return Preconditioner(inverses, [1 / max(float(c), least) for c in curvature])


def _kept(wish: Wish) -> Wish:
    """Return a wish that derivatives may be taken with, which they may not of what inference mode made."""
    return Wish([o.clone() for o in wish.outputs], {k: v.clone() for k, v in wish.values.items()})


def _both(first: Watch | None, second: Watch) -> Watch:
    def call(args: tuple[Any, ...], result: Any) -> None:
        if first is not None:
            first(args, result)
        second(args, result)

    return call


def _plus(first: Blocks, second: Blocks, factor: float) -> Blocks:
    return tuple(a + factor * b for a, b in zip(first, second, strict=True))


def _scaled(changes: Blocks, share: float) -> Blocks:
    return tuple(share * c for c in changes)


def _dot(first: Blocks, second: Blocks) -> float:
    return float(sum((a.double() * b.double()).sum() for a, b in zip(first, second, strict=True)))
