"""What a layer reads, as rows: im2col patches at chosen positions, or the inputs of a linear layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.graph import Layer

__all__ = ["Rows", "multiplicity", "output_rows", "read_maps", "read_rows", "rows_of", "sample_rows"]


@dataclass(frozen=True)
class Rows:
    """Which output positions of a layer are looked at: flat indices into its output positions, or all (None)."""

    index: Tensor | None

    @staticmethod
    def draw(positions: int, wanted: int, generator: torch.Generator) -> Rows:
        """Choose at most `wanted` of `positions` at random, the same for every sample of a batch."""
        if positions <= wanted:
            return Rows(None)
        return Rows(torch.randperm(positions, generator=generator)[:wanted].sort().values)


def read_rows(layer: Layer, x: Tensor, rows: Rows, groups: int | None = None) -> Tensor:
    """Return what `layer` reads at the chosen output positions; `groups` where fewer than its own are left.

    Shapes: x (N, C, *space) gives (groups, N * rows, C / groups * taps) for convolutions, columns in the order of
    the flattened weight (outputs first); x (..., C) gives (1, N * rows, C) for linear layers. A transposed
    convolution reads, against the order of its taps, its input with zeros between the positions.
    """
    if not layer.taps:
        return _linear_rows(x, rows)
    windows, rank = _windows(layer, _pad(layer, x)), len(layer.taps)
    if rows.index is not None:
        chosen: Any = torch.unravel_index(rows.index.to(x.device), windows.shape[2:-rank])
        windows = windows[:, :, *chosen]
    if layer.transposed:
        windows = windows.flip(*range(-rank, 0))
    g = layer.groups if groups is None else groups
    patches: Tensor = windows.flatten(-rank).flatten(2, -2).unflatten(1, (g, -1))  # (N, g, C / g, rows, taps)
    return patches.permute(1, 0, 3, 2, 4).flatten(1, 2).flatten(2)


def read_maps(layer: Layer, x: Tensor) -> Tensor:
    """Return the map that each tap of a convolution reads: x (N, C, *space) gives (N, C, taps, output positions).

    C may be fewer channels than the layer reads. The order of the taps is that of the flattened kernel.
    """
    view, rank = _windows(layer, _pad(layer, x)), len(layer.taps)
    if layer.transposed:
        view = view.flip(*range(-rank, 0))
    # Taps before positions: neighbours in memory stay neighbours, which makes the copy fast.
    order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    return view.permute(order).flatten(2, 1 + rank).flatten(3)


def output_rows(layer: Layer, y: Tensor, rows: Rows) -> Tensor:
    """Return a layer's output (or a target of its shape) at the chosen positions, (groups, N * rows, M / groups)."""
    if not layer.taps:
        return _linear_rows(y, rows)
    flat = y.flatten(2)
    if rows.index is not None:
        flat = flat[:, :, rows.index.to(flat.device)]
    n, m, r = flat.shape
    g = layer.groups
    return flat.view(n, g, m // g, r).permute(1, 0, 3, 2).reshape(g, n * r, m // g)


def rows_of(x: Tensor) -> Tensor:
    """Return what a linear layer reads as (samples, positions, C); a vector is one sample, and there may be none.

    >>> [tuple(rows_of(torch.zeros(shape)).shape) for shape in ((4,), (3, 4), (0, 4), (3, 2, 5, 4))]
    [(1, 1, 4), (3, 1, 4), (0, 1, 4), (3, 10, 4)]
    """
    return x.reshape(len(x) if x.ndim > 1 else 1, math.prod(x.shape[1:-1]), x.shape[-1])


def _linear_rows(x: Tensor, rows: Rows) -> Tensor:
    flat = rows_of(x)
    return (flat if rows.index is None else flat[:, rows.index.to(x.device)]).flatten(0, 1)[None]


def sample_rows(per_sample: Tensor, count: int) -> Tensor:
    """Repeat a per-sample mask (N,) for `count` rows, which come sample by sample.

    Rows of what has no samples (a table that all of them are held against) are shared out among them.
    """
    return per_sample[torch.arange(count) * len(per_sample) // max(count, 1)]


def multiplicity(layer: Layer, space: tuple[int, ...]) -> Tensor:
    """Return how often each input position is read, over all taps and output positions, (*space,), float64.

    A strided 1 x 1 convolution reads one position in four; the others must not count in its channel moments.
    """
    if layer.transposed:
        return _writes(layer, space)
    margins = _margins(layer, space)
    padded = tuple(n + before + after for n, (before, after) in zip(space, margins, strict=True))
    places = torch.arange(math.prod(padded)).view(1, 1, *padded)
    counts = torch.bincount(_windows(layer, places).flatten(), minlength=places.numel()).view(padded)
    inner = tuple(slice(before, before + n) for n, (before, _) in zip(space, margins, strict=True))
    return counts[inner].double()


def _writes(layer: Layer, space: tuple[int, ...]) -> Tensor:
    """Return how many taps of a transposed convolution write from each input position into the output."""
    counts = torch.ones(1, dtype=torch.float64)
    window = zip(space, layer.positions, layer.taps, layer.stride, layer.padding, layer.dilation, strict=True)
    for size, made, tap, stride, padding, dilation in window:
        places = torch.arange(size)[:, None] * stride - padding + dilation * torch.arange(tap)
        along = ((places >= 0) & (places < made)).sum(1).double()
        counts = (counts[:, None] * along).flatten()
    return counts.view(space)


def _pad(layer: Layer, x: Tensor) -> Tensor:
    if layer.transposed:
        x = _spread(x, layer.stride)
    margins = [n for margin in reversed(_margins(layer, tuple(x.shape[2:]))) for n in margin]
    return F.pad(x, margins) if any(margins) else x


def _spread(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Put ``stride - 1`` zeros between neighbouring positions."""
    spread = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)))
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = x
    return spread


def _margins(layer: Layer, space: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the zeros before and after each dimension (fewer than none: what is cut off).

    "same" under an even kernel has one more after.
    """
    reach = [dilation * (tap - 1) for dilation, tap in zip(layer.dilation, layer.taps, strict=True)]
    if layer.transposed:
        before = [r - p for r, p in zip(reach, layer.padding, strict=True)]
        return [
            (b, made + r - n - b) for b, r, n, made in zip(before, reach, space, layer.positions, strict=True)
        ]
    last = [(made - 1) * s + r + 1 for made, s, r in zip(layer.positions, layer.stride, reach, strict=True)]
    return [(p, max(p, end - n - p)) for p, end, n in zip(layer.padding, last, space, strict=True)]


def _windows(layer: Layer, padded: Tensor) -> Tensor:
    """Return what each tap reads of a padded map, without a copy: (N, C, *output positions, *taps)."""
    for i, (tap, stride, dilation) in enumerate(zip(layer.taps, layer.stride, layer.dilation, strict=True)):
        padded = padded.unfold(2 + i, dilation * (tap - 1) + 1, 1 if layer.transposed else stride)
        padded = padded[..., ::dilation]
    return padded
