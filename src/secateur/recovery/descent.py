"""Where a descent stands: what it learns, what was best so far, and how to go on from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.ground.processes import summed
from secateur.training import Checkpoints
from secateur.training.checkpoint import (
    fitting,
    kept_in,
    load_optimizer,
    optimizer_state,
    resumed,
    under,
    write,
)

__all__ = ["Descent"]


class Descent:
    """Adam on some tensors, of which those with the least distance so far are remembered."""

    def __init__(self, start: Mapping[str, Tensor], distance: float) -> None:
        """Begin at `start`, whose distance on held-out samples is known."""
        self.learned = {name: value.clone().requires_grad_() for name, value in start.items()}
        self.optimizer = torch.optim.Adam(list(self.learned.values()))
        self.steps = 0
        self.seconds = 0.0  # that all steps took
        self.start = self.least = distance
        self.best = {name: value.clone() for name, value in start.items()}
        self.last = distance
        self.worse = 0  # judgements in a row, each worse than the one before it

    def step(self, gradients: Sequence[Tensor], shares: float, rate: float) -> None:
        """Take one step with the mean gradient of all processes that have a share of the samples."""
        for value, gradient in zip(self.learned.values(), gradients, strict=True):
            value.grad = summed(gradient.contiguous()) / shares  # memory is added up as it lies
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.steps += 1

    def now(self) -> dict[str, Tensor]:
        """Return the tensors as they are, without their gradients."""
        return {name: value.detach() for name, value in self.learned.items()}

    def judge(self, distance: float) -> None:
        """Remember the tensors as they are if no others came as close."""
        self.worse = self.worse + 1 if distance >= self.last else 0
        self.last = distance
        if distance < self.least:
            self.least = distance
            self.best = {name: value.clone() for name, value in self.now().items()}

    def save(self, checkpoints: Checkpoints, recipe: Mapping[str, Any]) -> None:
        """Write the state of the run.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        moments, numbers = optimizer_state(self.optimizer)
        data = {
            "recipe": recipe,
            "optimizer": numbers,
            "numbers": [self.steps, self.seconds, self.start, self.least, self.last, self.worse],
        }
        tensors = {"learned": self.now(), "best": self.best, "optimizer": moments}
        write(kept_in(Path(checkpoints.folder)), tensors, data)

    def resume(self, checkpoints: Checkpoints, recipe: Mapping[str, Any]) -> None:
        """Go on from the state of a run in the folder, if there is one.

        Raises:
            CheckpointError: it is of another run, cannot be read, or may not be gone on from.
        """
        folder = Path(checkpoints.folder)
        if not kept_in(folder).exists():
            return
        tensors, data = resumed(folder, checkpoints.resume, recipe)
        with fitting(folder), torch.no_grad():
            for name, value in self.learned.items():
                value.copy_(under(tensors, "learned")[name])
                self.best[name].copy_(under(tensors, "best")[name])
            load_optimizer(self.optimizer, under(tensors, "optimizer"), data["optimizer"])
            self.steps, self.seconds, self.start, self.least, self.last, self.worse = data["numbers"]
