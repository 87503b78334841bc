"""Learning rates over the epochs of a round: pure functions of the position, so that a resumed run needs no state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Constant", "Cosine", "MultiStep", "OneCycle", "Schedule"]


class Schedule(Protocol):
    """What the optimiser's own learning rates are multiplied by, as a function of the position in a round."""

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the factor after `epoch` (with fractions) of `epochs` epochs."""
        ...


@dataclass(frozen=True)
class Constant:
    """The optimiser's own learning rates."""

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 down to `end`, after a linear rise over `warmup` epochs (Loshchilov and Hutter 2017).

    >>> [round(Cosine()(epoch, 4), 3) for epoch in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    warmup: float = 0.0
    end: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.warmup < math.inf and 0 <= self.end <= 1):
            raise ValueError(f"{self}: warmup is a number of epochs from 0, end a factor in 0..1.")

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the factor after `epoch` of `epochs` epochs."""
        warmup = min(self.warmup, epochs)
        if epoch < warmup:
            return epoch / warmup
        done = (epoch - warmup) / max(epochs - warmup, 1e-9)
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


@dataclass(frozen=True)
class MultiStep:
    """Multiply by `factor` after each of `epochs`.

    >>> [round(MultiStep((30,))(epoch, 60), 3) for epoch in (0, 29.9, 30, 59)]
    [1.0, 1.0, 0.1, 0.1]
    """

    epochs: tuple[float, ...]
    factor: float = 0.1

    def __post_init__(self) -> None:
        if not self.epochs or min(self.epochs) <= 0 or not 0 < self.factor < 1:
            raise ValueError(
                f"{self}: epochs are above 0, and at least one; the factor lies between 0 and 1."
            )

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the factor after `epoch` epochs."""
        return float(self.factor ** sum(epoch >= at for at in self.epochs))


@dataclass(frozen=True)
class OneCycle:
    """Up to the optimiser's learning rate and down again, on half cosines; its rate is the peak (Smith and Topin 2018).

    The first factor is ``1 / start``, the peak comes after the share `rise` of the epochs, and the last factor is
    ``1 / (start * end)``, as in `torch.optim.lr_scheduler.OneCycleLR`. Momentum stays as it is.

    >>> [round(OneCycle()(epoch, 10), 3) for epoch in (0, 3, 10)]
    [0.04, 1.0, 0.0]
    """

    rise: float = 0.3
    start: float = 25.0
    end: float = 1e4

    def __post_init__(self) -> None:
        if not (0 < self.rise < 1 and self.start >= 1 and self.end >= 1):
            raise ValueError(f"{self}: rise lies between 0 and 1, start and end are at least 1.")

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the factor after `epoch` of `epochs` epochs."""
        done, first = min(epoch / epochs, 1.0), 1 / self.start
        if done < self.rise:
            return _between(first, 1.0, done / self.rise)
        return _between(1.0, first / self.end, (done - self.rise) / (1 - self.rise))


def _between(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
