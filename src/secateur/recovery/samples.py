"""Minibatches of calibration samples that are not held out, without end, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from secateur.statistics import Calibration

__all__ = ["minibatches", "pooled"]


def minibatches(
    batches: Calibration, pool: list[Any] | None, size: int, seed: int
) -> Iterator[tuple[list[Any], Tensor | None]]:
    """Yield minibatches of about `size` samples, with their places in the pool if there is one, see `pooled`.

    Each sample comes once before any comes again, but for a remainder. They are drawn from the pool, without one from
    one calibration batch after the other. Without samples it ends.
    """
    generator = torch.Generator().manual_seed(seed)
    if pool is not None:
        n = batches.samples(pool)
        while True:
            order = torch.randperm(n, generator=generator)
            for index in order[: max(n // size, 1) * size].split(size):
                yield batches.take(pool, index), index
    while True:
        empty = True
        for flat, held in batches.held_out():
            order = torch.randperm(len(held), generator=generator)
            order = order[~held[order]]
            for index in order.tensor_split(max(round(len(order) / size), 1)):
                if len(index):
                    empty = False
                    yield batches.take(flat, index), None
        if empty:
            return


def pooled(batches: Calibration, memory: int) -> list[Any] | None:
    """Return all samples that are not held out as one batch.

    None where there are none, where they differ in shape, or where they need more than `memory` bytes.
    """
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
