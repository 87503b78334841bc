"""Rounding weights to float16, or to 8 or 4 bits with a scale for each output channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .header import Quantised

__all__ = ["Codes", "Quantise", "dequantise", "quantise", "scaled"]

CLIPS = tuple(
    1 - 0.04 * i for i in range(13)
)  # shares of the largest magnitude that the largest code may stand for


@dataclass(frozen=True)
class Quantise:
    """Store weights with fewer bits: 16 (float16), 8 or 4, and lose what that costs.

    Weights are the floating-point tensors of two or more dimensions; biases, norms and ``exclude`` (globs over
    names) stay exact, and so do tensors with values that are not finite. With 8 and 4 bits every index of the first
    dimension has its own scale, the one of least squared error among 13; blocks that were unified keep one magnitude,
    so their rows share a scale.

    Raises:
        ValueError: another number of bits.
    """

    bits: int
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bits not in (4, 8, 16):
            raise ValueError(f"bits={self.bits!r}: 16, 8 and 4 are known")


@dataclass(frozen=True)
class Codes:
    """A quantised tensor: words to code, scales, and what was lost."""

    words: NDArray[Any]  # in the tensor's shape, the sign last; of 16 bits or of 8
    scales: NDArray[np.float32]  # empty with 16 bits
    quantised: Quantised


def quantise(tensor: Tensor, bits: int, rows: int) -> Codes:
    """Return the codes of a finite floating-point tensor; ``rows`` indices of the first dimension share a scale."""
    exact = tensor.detach().to("cpu", torch.float64)
    if bits == 16:
        values = tensor.detach().to("cpu", torch.float16)
        words: NDArray[Any] = values.contiguous().view(torch.uint8).numpy().view("u2").reshape(tensor.shape)
        words = words << np.uint16(1) | words >> np.uint16(15)
        scales = np.empty(0, np.float32)
    else:
        scales, codes = _fit(exact.numpy(), (1 << (bits - 1)) - 1, rows)
        words = (np.abs(codes) << 1 | (codes < 0)).astype(np.uint8)
    back = dequantise(words, scales, bits, rows).to(tensor.dtype).double()
    lost = (back - exact).abs()
    norm = float(exact.norm())
    relative = float(lost.norm()) / norm if norm else 0.0
    return Codes(words, scales, Quantised(bits, rows, relative, float(lost.max()) if lost.numel() else 0.0))


def dequantise(words: NDArray[Any], scales: NDArray[np.float32], bits: int, rows: int) -> Tensor:
    """Return the float32 values of codes: float16 as they are, integers times their scale, rounded once."""
    if bits == 16:
        halves = np.ascontiguousarray(words >> np.uint16(1) | words << np.uint16(15))
        return torch.from_numpy(halves.view(np.float16).astype(np.float32).reshape(words.shape))
    flat = words.reshape(len(words), -1)
    return torch.from_numpy(scaled(flat, np.repeat(scales, rows)[: len(flat), None]).reshape(words.shape))


def scaled(words: NDArray[Any], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the values of integer codes, each times its scale (broadcast)."""
    values = (words >> np.uint8(1)).astype(np.float32)
    np.negative(values, out=values, where=(words & 1).astype(bool))
    with np.errstate(over="ignore", invalid="ignore"):  # a file may hold any scales
        values *= scales
    return values


def _fit(values: NDArray[np.float64], top: int, rows: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    groups = -(-len(values) // rows)
    flat = np.zeros((groups * rows, values.size // max(1, len(values))))
    flat[: len(values)] = values.reshape(len(values), -1)
    flat = flat.reshape(groups, -1)
    largest = np.abs(flat).max(axis=1, initial=0)
    best = np.full(groups, np.inf)
    scales = np.ones(groups, np.float32)
    codes = np.zeros(flat.shape)
    for clip in CLIPS:
        # Rounded to float32 before it is used: this is the scale that is stored.
        scale = (clip * largest / top).astype(np.float32)
        scale[scale == 0] = 1
        tried = np.clip(np.rint(flat / scale[:, None]), -top, top)
        error = ((tried * scale[:, None] - flat) ** 2).sum(axis=1)
        better = error < best
        best[better], scales[better] = error[better], scale[better]
        codes[better] = tried[better]
    return scales, codes.reshape(groups * rows, -1)[: len(values)].reshape(values.shape).astype(np.int64)
