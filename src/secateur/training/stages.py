"""The stages of a run, decided before it starts: rounds of pruning or one round with crops, then fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from .options import Crops, Training

__all__ = ["Stage", "stages"]


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one optimiser and one pass through the schedule."""

    epochs: int
    prunes: bool = False  # before training
    share: float | None = None  # of the connections that pruning leaves; None: the method's own rule
    crops: Crops | None = None  # pruning within training
    tunes: bool = False  # masks fixed, without the method, from the chosen network on


def stages(training: Training, share: float | None, start: float = 1.0) -> list[Stage]:
    """Return the stages of a run from a share `start` of the connections to `share`.

    Rounds leave ``start (share / start) ** (k / n)`` after round k of n: each takes the same part of what is left.

    >>> [round(s.share or 0, 3) for s in stages(Training([], iterations=3), 0.125)]
    [0.5, 0.25, 0.125]
    """
    if training.crops is not None:
        found = [Stage(training.epochs, share=share, crops=training.crops)]
    else:
        n = training.iterations
        shares = [None if share is None else start * (share / start) ** (k / n) for k in range(1, n + 1)]
        found = [Stage(training.epochs, prunes=True, share=s) for s in shares]
    if training.finetune:
        found.append(Stage(training.finetune, tunes=True))
    return found
