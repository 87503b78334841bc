"""The steps of ADMM towards a pattern, for one weight: ``W`` trains, the copy ``Z`` obeys it, ``U`` is the scaled dual.

Where a block is kept nothing is asked of it: there ``Z`` is ``W``, ``U`` is 0 and nothing pulls. ADMM then splits only
what the pattern changes, and kept weights train as freely as without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .pattern import KEEP, UNIFY, BlockPattern

__all__ = ["Split", "norm", "pull_for", "shared"]


@dataclass(frozen=True)
class Split:
    """One weight's pattern, the copy ``Z`` that obeys it and the dual ``U``, of the weight's shape, type and device."""

    pattern: BlockPattern
    copy: Tensor
    dual: Tensor
    changed: Tensor  # 1 where blocks are zero or unified, else 0

    @staticmethod
    def of(pattern: BlockPattern, copy: Tensor, dual: Tensor) -> Split:
        """Return the split with its `changed` worked out."""
        changed = pattern.partition.spread(pattern.states != KEEP)
        return Split(pattern, copy, dual, changed.to(copy))

    @staticmethod
    def start(pattern: BlockPattern, weight: Tensor) -> Split:
        """Return the split of a weight as it is: the copy is its projection, the dual zero."""
        return Split.of(pattern, pattern.project(weight), torch.zeros_like(weight))

    def renewed(self, pattern: BlockPattern, weight: Tensor) -> Split:
        """Return the split after the Z- and the U-step: ``Z = P(W + U)``, then ``U + W - Z``, both by `pattern`.

        On zero blocks the new dual is the point ``W + U`` itself, so that no block there has a larger dual than the
        smallest block that stays: a dual alone brings no block back.
        """
        point = weight + self.dual
        found = Split.of(pattern, pattern.project(point), point)
        return Split(pattern, found.copy, (point - found.copy) * found.changed, found.changed)

    def pull(self, weight: Tensor, strength: float) -> None:
        """Move what changes of a weight towards ``Z - U``, in place: a proximal step of ``strength / 2 |W - Z + U|^2``.

        ``W = (W + strength (Z - U)) / (1 + strength)``: the rest of the way shrinks by ``1 / (1 + strength)``,
        whatever the optimiser's learning rate is. Such steps are those of a penalty rho = strength / learning rate.
        """
        away = self.gap(weight).add_(self.dual)
        weight.sub_(away.mul_(self.changed), alpha=strength / (1 + strength))

    def gap(self, weight: Tensor) -> Tensor:
        """Return ``W - Z`` where the pattern changes the weight, else 0."""
        return (weight - self.copy) * self.changed


def pull_for(rest: float, steps: int) -> float:
    """Return the strength of a pull that leaves `rest`, 0..1, of the way to go after so many steps.

    >>> round(1 / (1 + pull_for(0.25, steps=2)), 3)
    0.5
    """
    return float(rest ** (-1 / steps) - 1)


def shared(old: Mapping[str, BlockPattern], new: Mapping[str, BlockPattern]) -> float:
    """Return the share of the blocks that `old` keeps which `new` keeps as well, over all weights together.

    Where `old` keeps none, unified blocks count instead; 1 where there are none of these either. Patterns are of the
    same weights and partitions. Of n blocks, of which a share k is kept, chance alone leaves k.
    """
    pairs = [(pattern.states, new[name].states) for name, pattern in old.items()]
    for state in (KEEP, UNIFY):
        count = sum(int((before == state).sum()) for before, _ in pairs)
        if count:
            return sum(int(((before == state) & (after == state)).sum()) for before, after in pairs) / count
    return 1.0


def norm(tensors: Mapping[str, Tensor]) -> float:
    """Return the Euclidean norm of all tensors together, in float64."""
    return float(torch.stack([t.detach().double().norm() for t in tensors.values()]).norm().clamp_min(1e-300))
