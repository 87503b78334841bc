"""How much every connection of a layer carries: mean activity, as NN-relief scores it (arXiv 2109.10795).

A convolution's kernel counts with the norm of the map that it makes of one input channel: ``|| |K| * |x_n| ||_F``. That
is ``sqrt(k^T A_n k)``, with k the flattened |K| and A_n the autocorrelation (taps x taps) of what the kernel reads of
|x_n|: all kernels of a channel then share one small matrix a sample, and one product of matrices scores them all. A
single weight counts with its |w| times the norm of what its tap reads of |x_n|, the root of A_n's diagonal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from secateur.graph import Graph, Layer
from secateur.ground.processes import in_step, summed
from secateur.ground.progress import track

from .batches import Calibration, counted
from .forward import Forward, Watch
from .outlets import outlet
from .patches import read_maps
from .sums import require_finite
from .weights import outputs_first, swapped

__all__ = ["WORKSPACE", "Activity", "Contributions", "Contributor", "Norm", "activity", "kernel_norms"]

WORKSPACE = 1 << 24
"""Bytes that scoring may use at once beside the activations of one batch."""


class Contributor(StrEnum):
    """What of a convolution is weighed, and pruned, as one; of a linear layer it is a single weight."""

    WEIGHT = "weight"
    """A single weight of a kernel."""
    KERNEL = "kernel"
    """The paper: a whole kernel, what one filter has for one of its input channels."""


class Norm(StrEnum):
    """How the maps of a kernel over many samples make one number."""

    MEAN_OF_NORMS = "mean of norms"
    """The paper: the Frobenius norm of every sample's map, averaged over samples."""
    NORM_OF_MEAN = "norm of the mean"
    """The public VGG and ResNet code: the Frobenius norm of the map of the mean |x|."""
    SUM_OF_MEAN = "sum of the mean"
    """The public LeNet code: the sum over positions of the map of the mean |x|."""


@dataclass(frozen=True)
class Contributions:
    """What flows into each output of a layer, not normalised, float64.

    ``inputs`` (outputs, contributors) is what each weight or kernel carries, in the order of the weight
    (outputs, inputs of a group, *taps); ``bias`` (outputs,) is what the bias does.
    """

    inputs: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Activity:
    """What one pass over the data says of some layers, by layer node.

    ``shares`` (outputs,) is the part of each channel in the residual sum that it enters, between 0 and 1: its norm
    over that and the norm of the other operand, both of mean |.| maps. Only layers whose output ends in such a sum
    have it.
    """

    samples: int
    contributions: Mapping[str, Contributions]
    shares: Mapping[str, Tensor]


def activity(
    graph: Graph,
    layers: Sequence[Layer],
    tensors: Mapping[str, Tensor],
    calibration: Iterable[Any],
    norm: Norm = Norm.MEAN_OF_NORMS,
    workspace: int = WORKSPACE,
    contributor: Contributor = Contributor.KERNEL,
) -> Activity:
    """Run the program once with the given tensors (by canonical name) and score what its layers carry.

    Sums are made in float64 over all samples, and over all processes of `torch.distributed`. A linear layer averages
    |x| over all rows that it reads, tokens included. Scoring a convolution takes at most `workspace` bytes beside
    the activations of a batch, or what one channel of one sample takes.

    Raises:
        CalibrationError: the data are empty, do not fit the example, or make activations that are not finite.
    """
    meters: dict[str, _Meter] = {}
    for layer in layers:
        weight = outputs_first(layer, tensors[layer.weight]).detach().abs()
        if not layer.taps:
            meters[layer.node] = _Rows(layer, weight)
        elif norm is not Norm.MEAN_OF_NORMS:
            meters[layer.node] = _Maps(layer, weight, norm, workspace, contributor)
        elif contributor is Contributor.WEIGHT:
            meters[layer.node] = _Taps(layer, weight, workspace)
        else:
            meters[layer.node] = _Norms(layer, weight, workspace)
    joins = _joins(graph, layers)
    sums = {node: _Operands(layer.channel_dim, graph.program.batch_first) for layer, node, _ in joins}
    reads: dict[str, Watch] = {**meters, **sums}
    seen = torch.zeros((), dtype=torch.int64)
    with in_step():
        batches = Calibration.of(calibration, graph.program)
        forward = Forward(graph.program, tensors)
        for batch in track(batches, "activity"):
            seen += batches.samples(batch)
            forward.run(batch, reads, {})
    samples = counted(seen)
    found = {}
    for layer in layers:
        inputs = meters[layer.node].result()
        require_finite(layer, inputs)
        bias = None
        if layer.bias is not None:
            size = math.prod(layer.positions) if layer.taps else 1
            bias = tensors[layer.bias].detach().abs().double().cpu()
            bias = bias * (size if norm is Norm.SUM_OF_MEAN else math.sqrt(size))
        found[layer.node] = Contributions(inputs, bias)
    norms = {node: operands.norms() for node, operands in sums.items()}
    shares = {}
    for layer, node, operand in joins:
        own, other = norms[node][operand], norms[node][1 - operand]
        shares[layer.node] = own / (own + other).clamp_min(torch.finfo(own.dtype).tiny)
    return Activity(samples, found, shares)


def kernel_norms(read: Tensor, kernels: Tensor) -> Tensor:
    """Return the norm of the map that each kernel makes of what it reads, summed over samples.

    Shapes: read (C, N, taps, positions) and kernels (C, M, taps), neither negative, give (C, M) in float64.

    >>> kernel_norms(torch.ones(1, 2, 3, 4), torch.ones(1, 1, 3))
    tensor([[12.]], dtype=torch.float64)
    """
    _, _, taps, positions = read.shape
    m = kernels.shape[1]
    if m * taps * positions <= taps**2 * (positions + m):
        maps = read.mT.flatten(1, 2) @ kernels.mT
        squares = maps.square_().unflatten(1, (-1, positions)).sum(2)
    else:  # k^T A k, as a product of flattened k k^T and A
        pairs = (kernels[..., :, None] * kernels[..., None, :]).flatten(2)
        squares = (read @ read.mT).flatten(2) @ pairs.mT
    norms: Tensor = squares.sqrt_().sum(1, dtype=torch.float64)
    return norms


class _Meter:
    """Sums of one layer; called with the arguments of its call."""

    def __init__(self, layer: Layer, weight: Tensor) -> None:
        self.layer, self.weight = layer, weight
        self.count = torch.zeros((), dtype=torch.float64)
        self.sum = torch.zeros((), dtype=torch.float64)

    def __call__(self, args: tuple[Any, ...], result: None) -> None:
        x = args[self.layer.position].detach().abs()
        self.add(x)

    def add(self, x: Tensor) -> None:
        """Add a batch of |x|."""
        raise NotImplementedError

    def mean(self) -> Tensor:
        """Return the mean over all processes."""
        return summed(self.sum) / summed(self.count).clamp_min(1)

    def result(self) -> Tensor:
        """Return what each contributor carries, (outputs, contributors)."""
        raise NotImplementedError


class _Rows(_Meter):
    """A linear layer: mean |x| of every input."""

    def add(self, x: Tensor) -> None:
        rows = x.reshape(-1, x.shape[-1])
        self.sum = self.sum + rows.sum(0, dtype=torch.float64).cpu()
        self.count += len(rows)

    def result(self) -> Tensor:
        return self.weight.double().cpu() * self.mean()


class _Norms(_Meter):
    """A convolution: the norm of every sample's map, kernel by kernel."""

    def __init__(self, layer: Layer, weight: Tensor, workspace: int) -> None:
        super().__init__(layer, weight)
        self.kernels = swapped(layer, weight.flatten(2)).contiguous()
        self.workspace = workspace
        self.sum = torch.zeros(self.kernels.shape[:2], dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        self.sum += _norm_sums(self.layer, x, self.kernels, self.workspace)
        self.count += len(x)

    def result(self) -> Tensor:
        return swapped(self.layer, self.mean())


class _Taps(_Meter):
    """A convolution: the norm of what each tap reads of every sample, weight by weight."""

    def __init__(self, layer: Layer, weight: Tensor, workspace: int) -> None:
        super().__init__(layer, weight)
        self.workspace = workspace
        self.sum = torch.zeros(layer.in_channels, math.prod(layer.taps), dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        self.sum += _tap_sums(self.layer, x, self.workspace)
        self.count += len(x)

    def result(self) -> Tensor:
        return _weight_by_weight(self.layer, self.weight, self.mean())


class _Maps(_Meter):
    """A convolution: one number from the map of the mean |x|."""

    def __init__(
        self, layer: Layer, weight: Tensor, norm: Norm, workspace: int, contributor: Contributor
    ) -> None:
        super().__init__(layer, weight)
        self.norm, self.workspace, self.contributor = norm, workspace, contributor

    def add(self, x: Tensor) -> None:
        self.sum = self.sum + x.sum(0, dtype=torch.float64).cpu()
        self.count += len(x)

    def result(self) -> Tensor:
        mean, norm = self.mean()[None], self.norm is Norm.NORM_OF_MEAN
        if norm and self.contributor is Contributor.KERNEL:
            kernels = swapped(self.layer, self.weight.double().cpu().flatten(2)).contiguous()
            return swapped(self.layer, _norm_sums(self.layer, mean, kernels, self.workspace))
        taps = _tap_sums(self.layer, mean, self.workspace) if norm else read_maps(self.layer, mean)[0].sum(2)
        weights = _weight_by_weight(self.layer, self.weight, taps)
        if self.contributor is Contributor.WEIGHT:
            return weights
        summed_taps: Tensor = weights.unflatten(1, (-1, taps.shape[1])).sum(2)
        return summed_taps  # a map's sum is that of its weights


class _Operands:
    """Sums over samples of |.| of the two operands of an addition, position by position.

    Where samples do not lie along dimension 0, over positions as well.
    """

    def __init__(self, channel_dim: int, batch_first: bool) -> None:
        self.channel_dim, self.batch_first = channel_dim, batch_first
        self.sums: list[Tensor] = [torch.zeros((), dtype=torch.float64)] * 2

    def __call__(self, args: tuple[Any, ...], result: None) -> None:
        maps = (self._laid_out(x.detach()).abs().sum(0, dtype=torch.float64).cpu() for x in args[:2])
        self.sums = [a + b for a, b in zip(self.sums, maps, strict=True)]

    def norms(self) -> list[Tensor]:
        """Return the norm of each channel's summed map, for both operands, (channels,)."""
        return [summed(s).flatten(1).norm(dim=1) for s in self.sums]

    def _laid_out(self, x: Tensor) -> Tensor:
        """Return (samples, channels, positions); all positions as samples, if they cannot be told apart."""
        x = x.movedim(self.channel_dim, 1 if self.batch_first else -1)
        return x.flatten(2) if self.batch_first and x.ndim > 2 else x.reshape(-1, x.shape[-1], 1)


def _joins(graph: Graph, layers: Iterable[Layer]) -> list[tuple[Layer, str, int]]:
    """Return the layers whose output enters a residual sum, its node, and which operand of it they are."""
    found = []
    for layer in layers:
        out = outlet(graph, layer)
        if out.join is not None and len(layer.shape) > 1:
            found.append((layer, out.join, 1 - out.operand))
    return found


def _weight_by_weight(layer: Layer, weight: Tensor, taps: Tensor) -> Tensor:
    """Return a weight (outputs, inputs of a group, *taps), none negative, times what its taps read (C, taps)."""
    split = weight.double().cpu().flatten(2).unflatten(0, (layer.groups, -1))  # (g, m, c, taps)
    carried: Tensor = split * taps.unflatten(0, (layer.groups, 1, -1))
    return carried.flatten(0, 1).flatten(1)


def _tap_sums(layer: Layer, x: Tensor, workspace: int) -> Tensor:
    """Return the sum over samples of the norm of what each tap reads of |x| (N, C, *space), (C, taps)."""
    each = 3 * x.element_size() * math.prod(layer.positions) * math.prod(layer.taps)
    sums = torch.zeros(x.shape[1], math.prod(layer.taps), dtype=torch.float64, device=x.device)
    for samples, channels in _blocks(len(x), x.shape[1], each, 0, workspace):
        norms = torch.linalg.vector_norm(read_maps(layer, x[samples, channels]), dim=3)
        sums[channels] += norms.sum(0, dtype=torch.float64)
    return sums.cpu()


def _norm_sums(layer: Layer, x: Tensor, kernels: Tensor, workspace: int) -> Tensor:
    """Return the sum over samples of the norm of each kernel's map of |x| (N, C, *space), (C, M), on the processor."""
    taps, m, positions = kernels.shape[2], kernels.shape[1], math.prod(layer.positions)
    # Of one channel of one sample: windows and their copy, the autocorrelation, products or maps.
    each = x.element_size() * (2 * positions * taps + taps**2 + m * (2 + min(positions, taps)))
    once = x.element_size() * m * taps**2
    sums = torch.zeros(kernels.shape[:2], dtype=torch.float64, device=x.device)
    for samples, channels in _blocks(len(x), x.shape[1], each, once, workspace):
        read = read_maps(layer, x[samples, channels]).transpose(0, 1)
        sums[channels] += kernel_norms(read, kernels[channels].to(x.dtype))
    return sums.cpu()


def _blocks(
    samples: int, channels: int, each: int, once: int, workspace: int
) -> Iterator[tuple[slice, slice]]:
    """Cut (samples, channels) into blocks that fit, with as many samples as possible: products are then wide.

    `each` is what one channel of one sample takes, `once` what a channel takes for all of them.
    """
    n = min(samples, max(1, (workspace - once) // each))
    c = max(1, workspace // (n * each + once))
    for i in range(0, samples, n):
        for j in range(0, channels, c):
            yield slice(i, i + n), slice(j, j + c)
