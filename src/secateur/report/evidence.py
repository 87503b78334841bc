"""What a report shows of a run besides its figures: loss curves in few points, and what could not shrink."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from secateur.graph import Frozen

__all__ = ["FrozenPart", "LossCurve", "frozen_parts", "loss_curve"]


@dataclass(frozen=True)
class LossCurve:
    """The relative loss of a group when only its first `units` stay, at some numbers of units, ascending.

    The first point has no units, the last has all; the number that the run kept is among them.
    """

    units: tuple[int, ...]
    loss: tuple[float, ...]

    def at(self, units: int) -> float | None:
        """Return the loss at a number of units, None where the curve has no point."""
        return dict(zip(self.units, self.loss)).get(units)


@dataclass(frozen=True)
class FrozenPart:
    """Parameter dimensions that may not shrink for one reason."""

    reason: str
    places: tuple[str, ...]  # "parameter[dimension]"
    sources: tuple[str, ...]  # file and line of the model's code, where known


def loss_curve(loss: Tensor, cut: int, points: int = 64) -> LossCurve:
    """Return at most `points` of a loss curve (see `methods.Ranking`), closer together where few units stay.

    >>> import torch
    >>> loss_curve(torch.tensor([1.0, 0.25, 0.0]), cut=1)
    LossCurve(units=(0, 1, 2), loss=(1.0, 0.25, 0.0))
    """
    size = len(loss) - 1
    chosen: Iterable[int] = range(size + 1)
    if size + 1 > points:
        # Half of them evenly, half geometrically: the knee of a wide group lies among its first units.
        even = np.linspace(0, size, points // 2)
        near = np.geomspace(1, size, points - points // 2 - 1)
        chosen = sorted({*even.round().astype(int).tolist(), *near.round().astype(int).tolist(), cut})
    units = tuple(chosen)
    return LossCurve(units, tuple(float(f"{float(loss[k]):.5g}") for k in units))


def frozen_parts(entries: Iterable[Frozen]) -> tuple[FrozenPart, ...]:
    """Return what is frozen by reason, the reason that holds most dimensions first."""
    places: dict[str, list[str]] = {}
    sources: dict[str, dict[str, None]] = {}
    for entry in entries:
        places.setdefault(entry.reason, []).append(f"{entry.parameter}[{entry.dim}]")
        sources.setdefault(entry.reason, {}).update({entry.source: None} if entry.source else {})
    parts = [FrozenPart(reason, tuple(where), tuple(sources[reason])) for reason, where in places.items()]
    return tuple(sorted(parts, key=lambda part: -len(part.places)))
