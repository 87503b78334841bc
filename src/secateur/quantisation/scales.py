"""Scales of weights: for each output, or for groups of its inputs, the one under which rounding costs least."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SHARES", "chosen_scales"]

SHARES = tuple(1 - 0.03 * i for i in range(15))
"""Shares of the largest weight that are tried as the largest that can be said."""


def chosen_scales(
    weight: Tensor, importance: Tensor, most: int, owner: Tensor, shares: tuple[float, ...] = SHARES
) -> Tensor:
    """Return scales (g, m, n), float64 numbers that float32 holds, for weights (g, m, d).

    Column ``k`` belongs to the scale ``owner[k]``, of n. The scale of a share has the least sum of squared rounding
    errors, each column's weighted by `importance` (g, d). Scales of nothing but zeros are 1.

    >>> chosen_scales(torch.tensor([[[127.0, 1.0]]]).double(), torch.ones(1, 2).double(), 127, torch.zeros(2).long())
    tensor([[[1.]]], dtype=torch.float64)
    """
    g, m, _ = weight.shape
    count = int(owner.max()) + 1
    index = owner.expand_as(weight)
    largest = weight.new_zeros(g, m, count).scatter_reduce_(2, index, weight.abs(), "amax")
    best = torch.full_like(largest, torch.inf)
    chosen = torch.ones_like(largest)
    for share in shares:
        scales = (largest * (share / most)).float().double()
        usable = scales > torch.finfo(torch.float32).tiny
        scales = torch.where(usable, scales, 1.0)
        each = scales.gather(2, index)
        error = (weight - (weight / each).round().clamp(-most, most) * each) ** 2 * importance[:, None]
        total = torch.zeros_like(best).scatter_add_(2, index, error)
        better = (total < best) & usable
        best, chosen = torch.where(better, total, best), torch.where(better, scales, chosen)
    return chosen
