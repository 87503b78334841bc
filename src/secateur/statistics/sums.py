"""Running sums of what passes through a network: second moments of what layers read, power of what they make."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.graph import Layer
from secateur.ground.devices import onto, single
from secateur.ground.errors import CalibrationError
from secateur.ground.processes import summed

from .patches import Rows, multiplicity, read_rows, rows_of, sample_rows

__all__ = ["PowerSum", "SiteStatistics", "SiteSum", "gram", "require_finite"]

_STRIP = 256  # columns of a Gram matrix that are made by one product


def gram(x: Tensor) -> Tensor:
    """Return ``x^T x`` of rows (..., n, d), (..., d, d): of a wide one, strips of one half, which the other mirrors.

    >>> x = torch.arange(1200.0).view(2, 600) % 7
    >>> torch.equal(gram(x), x.T @ x)
    True
    """
    d = x.shape[-1]
    if d <= _STRIP:
        return x.mT @ x
    made = x.new_empty(*x.shape[:-2], d, d)
    for i in range(0, d, _STRIP):
        strip = x[..., i : i + _STRIP].mT @ x[..., : i + _STRIP]
        made[..., i : i + _STRIP, : i + _STRIP] = strip
        made[..., :i, i : i + _STRIP] = strip[..., :i].mT
    return made


@dataclass(frozen=True)
class SiteStatistics:
    """Second moments of one value as one kind of window reads it, float64.

    ``fit`` and ``held`` (C, C) are channel moments over positions that the layer reads, each position counted as
    often as a tap reads it (C / fold of them, where flattened positions are pooled); ``gram`` and ``mean`` (C,)
    likewise. ``patches`` (groups, C / groups * taps + 1, same) are moments of whole patches with a constant one
    behind them, where they were asked for and fit; those of a linear layer are its channels', of all positions.
    ``seen``: the layer read something; an expert to which no sample was sent reads nothing, and its moments are zero.
    """

    fit: Tensor
    held: Tensor
    gram: Tensor  # over all samples, as the next two are
    mean: Tensor
    patches: Tensor | None
    seen: bool = True


class PowerSum:
    """The power of a watched value: its mean square about the mean, summed over channels.

    Where a norm divides each position by its own size (`relative`), an error counts relative to the power of its
    position. The power is then that which makes ``error / power`` the mean of these: ``1 / E[1 / |y|^2]``. A few
    positions of enormous size, as decoders have them, count no more than others.
    """

    def __init__(
        self, layer: Layer, positions: int, relative: bool = False, device: torch.device | None = None
    ) -> None:
        self.layer, self.positions, self.relative = layer, positions, relative
        self.sum, self.square = torch.zeros(2, layer.out_channels, dtype=torch.float64, device=device)
        self.count = 0
        self.inverse = torch.zeros((), dtype=torch.float64, device=device)

    def begin(self, held: Tensor, generator: torch.Generator) -> None:
        """Start a batch: draw the positions that count."""
        self.rows = Rows.draw(math.prod(self.layer.positions), self.positions, generator)

    def __call__(self, args: tuple[Any, ...], result: Tensor) -> None:
        """Add what the node has made."""
        result = single(result)
        if self.layer.taps and self.rows.index is not None:
            result = result.flatten(2)[:, :, self.rows.index.to(result.device)]
        dims = [d for d in range(result.ndim) if d != self.layer.channel_dim % result.ndim]
        squares = result * result
        self.sum += onto(result.sum(dims), self.sum)
        self.square += onto(squares.sum(dims), self.square)
        self.count += result.numel() // result.shape[self.layer.channel_dim]
        if self.relative:
            own = onto(squares.sum(self.layer.channel_dim), self.inverse)
            self.inverse += (1 / own[own > 0]).sum()

    def value(self) -> float:
        """Return the power over all processes."""
        count = summed(self.sum.new_tensor(float(self.count))).clamp_min(1)
        inverse = summed(self.inverse)
        if self.relative and bool(inverse > 0):
            return float(count / inverse)
        mean = summed(self.sum) / count
        return float((summed(self.square) / count - mean**2).clamp_min(0).sum())


class SiteSum:
    """Running sums of one value under one kind of window.

    `inside`: what a linear layer reads comes position by position, each with all samples (see `samples_inside`).
    """

    def __init__(
        self,
        layer: Layer,
        patches: bool,
        positions: int,
        fold: int,
        inside: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.layer, self.fold, self.inside = layer, fold, inside
        c = layer.in_channels // fold
        self.grams = torch.zeros(2, c, c, dtype=torch.float64, device=device)
        self.totals = torch.zeros(2, c, dtype=torch.float64, device=device)
        self.count = torch.zeros(2, dtype=torch.float64, device=device)
        self.patches: Tensor | None = None
        self.whole = patches and not layer.taps  # channels are patches
        if patches and layer.taps:
            d = c // layer.groups * math.prod(layer.taps) + 1
            self.patches = torch.zeros(layer.groups, d, d, dtype=torch.float64, device=device)
        self.rows_seen = 0
        self.positions = positions
        self.weights: Tensor | None = None

    def begin(self, held: Tensor, generator: torch.Generator) -> None:
        """Start a batch whose held-out samples come last: draw the positions that count."""
        self.held, self._generator = held, generator
        self.rows = Rows.draw(math.prod(self.layer.positions), self.positions, generator)

    def __call__(self, args: tuple[Any, ...], result: None) -> None:
        """Add what the node is about to read."""
        x = single(args[self.layer.position].detach())
        rows, weight = self._read(x)
        held = sample_rows(self.held, len(rows))  # pieces of a sample may stand as samples of their own
        fitted = int((~held).sum())
        each = rows.shape[1] if weight is None else float(weight.sum())
        for i, part in enumerate((rows[:fitted], rows[fitted:])):
            weighted = part if weight is None else part * weight.to(part.dtype)[:, None]
            flat = weighted.reshape(-1, rows.shape[2])
            made = gram(flat) if weight is None else part.reshape(flat.shape).T @ flat
            self.grams[i] += onto(made, self.grams)
            self.totals[i] += onto(flat.sum(0), self.totals)
            self.count[i] += len(part) * each
        if self.patches is not None:
            p = read_rows(self.layer, x, self.rows)
            p = torch.cat([p, p.new_ones(*p.shape[:2], 1)], 2)
            self.patches += onto(gram(p), self.patches)
            self.rows_seen += p.shape[1]

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what is read, (samples, positions, C), and how often by position; None if all are read alike."""
        if not self.layer.taps:
            if self.inside:
                x = x.unflatten(0, (-1, len(self.held))).transpose(0, 1)
            flat = rows_of(x)
            if self.fold > 1:
                flat = flat.unflatten(2, (-1, self.fold)).transpose(2, 3).flatten(1, 2)
            return flat, None
        if self.weights is None:
            weights = multiplicity(self.layer, tuple(x.shape[2:])).flatten()
            self.places, self.weights = weights.nonzero()[:, 0].to(x.device), weights[weights > 0].to(x)
        rows = Rows.draw(len(self.places), self.positions, self._generator)
        index = slice(None) if rows.index is None else rows.index.to(x.device)
        places, weight = self.places[index], self.weights[index]
        flat = x.flatten(2).transpose(1, 2)
        if len(places) < flat.shape[1]:
            flat = flat[:, places]
        return flat, None if bool((weight == 1).all()) else weight

    def statistics(self) -> SiteStatistics:
        """Return the moments over all processes; where one of fit and held has no samples, it is the other."""
        count = summed(self.count)
        grams, totals = summed((self.grams + self.grams.mT) / 2), summed(self.totals)
        both = grams.sum(0) / count.sum().clamp_min(1)
        mean = totals.sum(0) / count.sum().clamp_min(1)
        fit, held = grams / count.clamp_min(1)[:, None, None]
        fit, held = fit if count[0] else held, held if count[1] else fit
        require_finite(self.layer, both, mean)
        patches = None
        if self.patches is not None:
            rows = summed(self.count.new_tensor(float(self.rows_seen)))
            patches = summed(self.patches) / rows.clamp_min(1)
        elif self.whole:
            above = torch.cat([both, mean[:, None]], 1)
            patches = torch.cat([above, torch.cat([mean, mean.new_ones(1)])[None]])[None]
        return SiteStatistics(fit, held, both, mean, patches, bool(count.sum() > 0))


def require_finite(layer: Layer, *sums: Tensor) -> None:
    """Check the sums of what a layer reads.

    Raises:
        CalibrationError: they are not finite.
    """
    if not all(bool(total.isfinite().all()) for total in sums):
        raise CalibrationError(
            f"The activations that {layer.module or layer.node} reads are not finite on the calibration data: "
            "check the inputs' preprocessing, and that the model itself gives finite outputs on them."
        )
