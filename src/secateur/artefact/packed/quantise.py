"""Rounding weights to float16, or to 8 or 4 bits with a scale for each output channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .header import Quantised
from .words import Words, rotate

__all__ = ["CODE", "Quantise", "dequantise", "exact", "quantise"]

Floats = NDArray[np.float32]
CODE = np.dtype("u1")
CLIPS = tuple(1 - 0.04 * i for i in range(13))  # of the largest magnitude: what the largest code stands for


@dataclass(frozen=True)
class Quantise:
    """Store weights with fewer bits: 16 (float16), 8 or 4, and lose what that costs.

    Weights are the floating-point tensors of two or more dimensions; biases, norms and ``exclude`` (globs over
    names) stay exact, and so do tensors with values that are not finite, or would not be. With 8 and 4 bits every
    index of the first dimension has its own scale, the one of least squared error among 13; blocks that were unified
    keep one magnitude, so their rows share a scale.

    Raises:
        ValueError: another number of bits.
    """

    bits: int
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bits not in (4, 8, 16):
            raise ValueError(f"bits={self.bits!r}: 16, 8 and 4 are known")


def quantise(tensor: Tensor, bits: int, rows: int) -> tuple[Words, Floats | None, Quantised] | None:
    """Return the codes of a floating-point tensor in its shape, scales (None: float16), and what was lost.

    ``rows`` indices of the first dimension share a scale. None where values are not finite, or would not be.
    """
    exact, scales = tensor.detach().to("cpu", torch.float32), None
    if not bool(exact.isfinite().all()):
        return None
    if bits == 16:
        rows, words = 1, rotate(exact.half().contiguous().numpy().view(np.uint16), 1)
    else:
        scales, words = _fit(exact.contiguous().numpy(), (1 << (bits - 1)) - 1, rows)
    back = dequantise(words, None if scales is None else np.repeat(scales, rows)[: len(words)])
    rounded = torch.from_numpy(back).to(tensor.dtype).double()
    if not bool(rounded.isfinite().all()):
        return None
    lost = (rounded - tensor.detach().to("cpu")).abs()
    norm, largest = float(tensor.detach().double().norm()), float(lost.max())
    relative = float(lost.norm()) / norm if norm else 0.0
    return words, scales, Quantised(bits, float(f"{relative:.4g}"), float(f"{largest:.4g}"), rows)


def exact(tensor: Tensor, scales: Tensor) -> tuple[Words, Floats, Quantised] | None:
    """Return what `quantise` does for values that are integers times scales (outputs, 1), which loses nothing.

    None where they are not, bit by bit.
    """
    if tensor.dtype != torch.float32 or scales.dtype != torch.float32 or tensor.ndim < 2:
        return None
    if tuple(scales.shape) != (len(tensor), 1) or not tensor.numel():
        return None
    values, factors = (t.detach().to("cpu").contiguous().numpy() for t in (tensor, scales.flatten()))
    with np.errstate(all="ignore"):
        integers = np.rint(values / factors.reshape(-1, *(1,) * (values.ndim - 1)))
    if not np.isfinite(integers).all() or np.abs(integers).max() > 127:
        return None
    words = np.abs(integers).astype(CODE) << CODE.type(1) | (integers < 0)
    if not np.array_equal(dequantise(words, factors).view(np.uint32), values.view(np.uint32)):
        return None
    return words, factors, Quantised(8, 0.0, 0.0)


def dequantise(words: Words, scales: Floats | None) -> Floats:
    """Return the values of codes: float16 as they are, integers times the scale of their first index, rounded once."""
    if scales is None:
        return rotate(words, -1).view(np.float16).astype(np.float32)
    codes, minus = (words >> CODE.type(1)).view(np.int8), -(words & CODE.type(1)).view(np.int8)
    codes = (codes ^ minus) - minus  # two's complement
    with np.errstate(over="ignore", invalid="ignore"):  # a file may hold any scales
        return np.multiply(codes, scales.reshape(-1, *(1,) * (words.ndim - 1)), dtype=np.float32)


def _fit(values: Floats, top: int, rows: int) -> tuple[Floats, Words]:
    """Return a scale for each ``rows`` first indices, and the codes: magnitudes of at most ``top``, then signs."""
    groups = -(-len(values) // rows)
    flat = np.zeros((groups * rows, values.size // len(values)), np.float32)
    flat[: len(values)] = values.reshape(len(values), -1)
    flat = flat.reshape(groups, -1)
    largest = np.abs(flat).max(axis=1)
    best, scales, codes = np.full(groups, np.inf), np.ones(groups, np.float32), np.zeros_like(flat)
    for clip in CLIPS:
        scale = (clip * largest / top).astype(np.float32)
        scale[scale == 0] = 1
        tried = np.clip(np.rint(flat / scale[:, None]), -top, top)
        error = np.square(tried * scale[:, None] - flat, dtype=np.float64).sum(axis=1)
        better = error < best
        best[better], scales[better], codes[better] = error[better], scale[better], tried[better]
    words = np.abs(codes).astype(CODE) << CODE.type(1) | (codes < 0)
    return scales, words.reshape(groups * rows, -1)[: len(values)].reshape(values.shape)
