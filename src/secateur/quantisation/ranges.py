"""Ranges of activations: between which ends their levels lie, chosen by the error that this causes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from secateur.ground.errors import CalibrationError
from secateur.ground.levels import Levels
from secateur.ground.processes import greatest, summed
from secateur.statistics.forward import Watch

__all__ = ["Range", "chosen_levels", "error_of", "levels_between"]

SHARES = tuple(0.9**i for i in range(22))
"""Shares of the largest and smallest value that are tried as ends."""

ROWS = 1 << 16  # values of a batch that are kept
TOTAL = 1 << 20  # values in all


def levels_between(low: float, high: float, most: int) -> Levels:
    """Return levels whose reals reach from `low` to `high` and have 0 among them; the scale is one of float32.

    >>> levels_between(-1.0, 3.0, 255)
    Levels(scale=0.01568627543747425, zero=64, most=255)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(torch.tensor(max((high - low) / most, 1e-30), dtype=torch.float32))
    return Levels(scale, min(max(round(-low / scale), 0), most), most)


def error_of(levels: Levels, sample: Tensor, importance: Tensor) -> float:
    """Return the summed squared error of a sample (rows, channels), weighted by channel (channels,)."""
    lost = (sample - levels.simulated(sample)).double() ** 2
    return float(lost.sum(0) @ importance)


def chosen_levels(low: float, high: float, most: int, error: Callable[[Levels], float]) -> Levels:
    """Return the levels with the least error among those whose ends are shares of `low` and `high`.

    Both ends are moved together first, then each alone.
    """
    found: dict[Levels, float] = {}

    def best(pairs: list[tuple[float, float]]) -> tuple[float, float]:
        def of(pair: tuple[float, float]) -> float:
            levels = levels_between(low * pair[0], high * pair[1], most)
            if levels not in found:
                found[levels] = error(levels)
            return found[levels]

        return min(pairs, key=of)

    a, b = best([(share, share) for share in SHARES])
    if low < 0 < high:
        a, b = best([(a, b), *((share, b) for share in SHARES)])
        a, b = best([(a, b), *((a, share) for share in SHARES)])
    return levels_between(low * a, high * b, most)


class Range:
    """The ends of a value over all data, and a sample of it from what is held out, both made batch by batch.

    `importance` (channels,) is what an error of each channel costs in what reads it.
    """

    def __init__(self, module: str, dim: int, position: int, importance: Tensor) -> None:
        self._module, self._dim, self._position, self._importance = module, dim, position, importance
        self._ends = torch.full((2,), -math.inf, dtype=torch.float64)
        self._rows: list[tuple[bool, Tensor]] = []
        self._kept = 0

    def begin(self, held: Tensor, generator: torch.Generator) -> None:
        """Start a batch, of which some samples are held out."""
        self._held, self._generator = held, generator

    def watch(self) -> Watch:
        """Return what looks at the arguments of a layer."""
        return self._read

    def levels(self, most: int) -> Levels:
        """Return the levels of least error on what is held out (on all, if that is nothing), over all processes.

        Raises:
            CalibrationError: values are not finite.
        """
        ends = greatest(self._ends)
        if not bool(ends.isfinite().all()):
            raise CalibrationError(
                f"What {self._module} reads is not finite on the calibration data: check the inputs' preprocessing, "
                "and that the model gives finite outputs on them."
            )
        some = bool(summed(torch.tensor(int(any(held for held, _ in self._rows)))))
        rows = [x for held, x in self._rows if held or not some]
        sample = torch.cat(rows) if rows else torch.zeros(0, len(self._importance))

        def error(levels: Levels) -> float:
            return float(
                summed(torch.tensor(error_of(levels, sample, self._importance), dtype=torch.float64))
            )

        return chosen_levels(float(-ends[0]), float(ends[1]), most, error)

    def _read(self, args: tuple[object, ...], result: None) -> None:
        x = args[self._position]
        assert isinstance(x, Tensor)
        self._ends = torch.maximum(
            self._ends, torch.stack([-x.amin(), x.amax()]).double().nan_to_num(math.inf)
        )
        for held in (False, True):
            part = x if len(self._held) == 1 else x[self._held == held]
            if len(self._held) == 1 and bool(self._held) != held:
                continue
            rows = part.movedim(self._dim, -1).reshape(-1, x.shape[self._dim])
            wanted = max(min(ROWS, TOTAL - self._kept) // rows.shape[1], 0)
            chosen = torch.randperm(len(rows), generator=self._generator)[:wanted]
            if len(chosen):
                self._rows.append((held, rows[chosen].float().clone()))
                self._kept += self._rows[-1][1].numel() if held else 0
