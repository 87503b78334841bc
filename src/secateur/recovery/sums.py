"""Second moments of a regression, summed batch by batch: of what is read once, however many layers read it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.ground.devices import onto, single
from secateur.ground.errors import CalibrationError
from secateur.ground.processes import summed
from secateur.statistics.patches import sample_rows
from secateur.statistics.sums import gram

from .least_squares import Moments

__all__ = ["Sums"]


class Sums:
    """Sums of a regression with g groups, d inputs and targets of several layers: fit and held-out samples apart.

    In each batch the inputs come first, then the targets of each of the layers, all with the same rows.
    """

    def __init__(self, module: str, g: int, d: int, sizes: Sequence[int], device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(2, g, *shape, dtype=torch.float64, device=device)

        self._module = module
        self._xx = zeros(d, d)
        self._yx = [zeros(m, d) for m in sizes]
        self._yy = [zeros(m) for m in sizes]
        self._count = torch.zeros(2, dtype=torch.int64)

    def read(self, x: Tensor, held: Tensor) -> None:
        """Add inputs (g, rows, d); `held` (samples,) says which samples are held out."""
        mask = sample_rows(held, x.shape[1])
        self._rows = [rows.nonzero()[:, 0].to(x.device) for rows in (~mask, mask)]
        self._x = self._parts(x)
        for i, part in enumerate(self._x):
            self._xx[i] += onto(gram(part), self._xx)
            self._count[i] += part.shape[1]

    def made(self, k: int, y: Tensor) -> None:
        """Add the targets (g, rows, m) of the k-th layer."""
        for i, (x, part) in enumerate(zip(self._x, self._parts(y), strict=True)):
            self._yx[k][i] += onto(part.mT @ x, self._yx[k])
            self._yy[k][i] += (onto(part, self._yy[k]) ** 2).sum(1)

    def _parts(self, values: Tensor) -> list[Tensor]:
        values = single(values)
        return [
            values if len(rows) == values.shape[1] else values.index_select(1, rows) for rows in self._rows
        ]

    def moments(self) -> tuple[Moments, Moments, Moments]:
        """Return fit, held-out and whole moments over all processes; of two parts with one empty, the other is all.

        The targets of all layers stand one behind the other.
        """
        xx, yx, yy = (summed(t) for t in (self._xx, torch.cat(self._yx, 2), torch.cat(self._yy, 2)))
        if not all(bool(torch.isfinite(t.sum()) or torch.isfinite(t).all()) for t in (xx, yx, yy)):
            raise CalibrationError(
                f"Activations at {self._module} are not finite on the calibration data: check the inputs' "
                "preprocessing, and that the dense model gives finite outputs on them."
            )
        fit, held = (
            Moments(xx[i] / max(n, 1), yx[i] / max(n, 1), yy[i] / max(n, 1), n)
            for i, n in enumerate(summed(self._count).tolist())
        )
        if not held.count or not fit.count:
            fit = held = fit if fit.count else held
            return fit, held, fit
        return fit, held, fit.joined(held)
