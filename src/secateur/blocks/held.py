"""Holding a weight to its pattern while it trains: zeros stay zero, unified blocks move as one or not at all."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.ground.devices import moments_device, onto

from .pattern import BlockPattern

__all__ = ["Held"]


class Held:
    """One weight that obeys a pattern from now on; it is projected at once.

    A unified block is ``v * s`` with fixed signs ``s``. If it is tied, its one magnitude moves by the mean of the
    gradients ``s_j g_j`` (that of ``v`` is their sum; the mean keeps the learning rate of single weights) and stays
    at 0 or above. If it is not tied it is frozen.
    """

    def __init__(
        self, weight: Tensor, pattern: BlockPattern, *, tied: bool, signs: Tensor | None = None
    ) -> None:
        self.pattern, self.tied = pattern, tied
        self.signs = torch.where(weight < 0, -1, 1).to(torch.int8) if signs is None else signs
        numbers = torch.arange(pattern.partition.count).view(pattern.states.shape)
        unified = pattern.unified().flatten()
        self._place = unified.nonzero().flatten().to(weight.device)
        _, owner = pattern.partition.spread(numbers).flatten()[unified].unique(return_inverse=True)
        self._owner = owner.to(weight.device)
        self._count = torch.bincount(self._owner).to(weight.dtype)
        self._zero = (~pattern.mask()).to(weight.device)
        if signs is None:
            weight.copy_(pattern.project(weight))
        self._sign = self.signs.flatten()[self._place.cpu()].to(weight)
        self._value = weight.flatten()[self._place]

    def gradient(self, gradient: Tensor) -> None:
        """Let a gradient act on what may move, in place."""
        gradient.masked_fill_(self._zero, 0)
        if len(self._place):
            self._put(gradient, self._sign * self._mean(gradient)[self._owner] if self.tied else None)

    def weight(self, weight: Tensor) -> None:
        """Bring a weight back to the pattern after a step, in place."""
        weight.masked_fill_(self._zero, 0)
        if len(self._place):
            moved = self._sign * self._mean(weight).clamp_min(0)[self._owner] if self.tied else self._value
            self._put(weight, moved)

    def _mean(self, values: Tensor) -> Tensor:
        """Return the mean of ``s_j x_j`` of each unified block. Summed in float64: equal values keep their mean."""
        exact = moments_device(values.device)
        part = (self._sign * values.flatten()[self._place]).to(exact).double()
        total = part.new_zeros(len(self._count)).index_add_(0, self._owner.to(exact), part)
        return onto(total / self._count.to(exact), values)

    def _put(self, target: Tensor, values: Tensor | None) -> None:
        flat = target.reshape(-1) if target.is_contiguous() else target.flatten()
        flat[self._place] = torch.zeros_like(flat[self._place]) if values is None else values
        if not target.is_contiguous():  # channels last: what was written is a copy
            target.copy_(flat.view(target.shape))
