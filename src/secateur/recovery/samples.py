"""Minibatches of calibration samples that are not held out, without end, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from secateur.statistics import Calibration

__all__ = ["minibatches"]


def minibatches(batches: Calibration, size: int, seed: int, memory: int) -> Iterator[list[Any]]:
    """Yield minibatches of about `size` samples; each sample comes once before any comes again, but for a remainder.

    They are drawn from all samples where these have one shape and fit into `memory` bytes, else from one calibration
    batch after the other. Without samples it ends.
    """
    generator = torch.Generator().manual_seed(seed)
    pool = _pooled(batches, memory)
    if pool is not None:
        n = batches.samples(pool)
        while True:
            order = torch.randperm(n, generator=generator)
            for index in order[: max(n // size, 1) * size].split(size):
                yield batches.take(pool, index)
    while True:
        empty = True
        for flat, held in batches.held_out():
            order = torch.randperm(len(held), generator=generator)
            order = order[~held[order]]
            for index in order.tensor_split(max(round(len(order) / size), 1)):
                if len(index):
                    empty = False
                    yield batches.take(flat, index)
        if empty:
            return


def _pooled(batches: Calibration, memory: int) -> list[Any] | None:
    """Return all samples that are not held out as one batch, or None where that cannot be."""
    parts: list[list[Any]] = []
    taken = 0
    for flat, held in batches.held_out():
        if bool(held.all()):
            continue
        parts.append(batches.take(flat, ~held))
        taken += sum(x.numel() * x.element_size() for x in parts[-1] if isinstance(x, Tensor))
        if taken > memory:
            return None
    return batches.joined(parts) if parts else None
