"""How far other networks' outputs are from the dense one's, on samples that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from secateur.ground.processes import in_step, summed
from secateur.ground.tensors import floating
from secateur.statistics.batches import Calibration
from secateur.statistics.forward import Forward

__all__ = ["held_out_distances"]


def held_out_distances(dense: Forward, others: Sequence[Forward], batches: Calibration) -> list[float]:
    """Return each network's sum of squared differences from the dense one's outputs on the held-out samples."""
    total = torch.zeros(len(others), dtype=torch.float64)
    with in_step():
        for flat, held in batches.held_out():
            if bool(held.any()):
                inputs = batches.take(flat, held)
                expected = floating(dense.run(inputs, {}, {}, whole=True))
                for i, other in enumerate(others):
                    found = floating(other.run(inputs, {}, {}, whole=True))
                    total[i] += sum(float(((a - b) ** 2).sum()) for a, b in zip(expected, found, strict=True))
    distances: list[float] = summed(total).tolist()
    return distances
