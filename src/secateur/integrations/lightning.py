"""Prune while Lightning trains: a callback that attaches a method to the trainer's optimiser."""

from __future__ import annotations

from typing import Any

import lightning
from torch import Tensor

from secateur.ground.errors import TrainingError, UsageError
from secateur.training import Attached, TrainingMethod

__all__ = ["Pruning"]


class Pruning(lightning.Callback):
    """Attach a method when training starts, let it prune after each epoch, and keep its state in checkpoints.

    After each epoch in which more than the share `until` of the weights is left, `method.prune` takes the next ones;
    with ``until=1.0`` only what the method does by itself in each step happens. `run` is the attachment, whose masks
    say what is left. A run that was interrupted goes on from Lightning's checkpoint (``ckpt_path=``) as if it had not
    been.

    With precision ``"16-mixed"`` Lightning scales losses: choose an optimiser that is not fused, or ``"bf16-mixed"``.

    Raises:
        UsageError: `until` is not above 0 and at most 1.
        TrainingError: when training starts, the trainer has several optimisers.
    """

    def __init__(self, method: TrainingMethod, until: float = 0.5) -> None:
        if not 0 < until <= 1:
            raise UsageError(
                f"until={until!r} must be above 0 and at most 1: the share of the weights at which pruning ends."
            )
        self.method, self.until = method, until
        self.run: Attached | None = None
        self._saved: dict[str, Tensor] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Attach the method."""
        if len(trainer.optimizers) != 1:
            raise TrainingError(
                f"The trainer has {len(trainer.optimizers)} optimisers: attach a method to each of them, with "
                "method.attach(module, optimizer)."
            )
        steps = int(trainer.estimated_stepping_batches)
        self.run = self.method.attach(pl_module, trainer.optimizers[0], steps=steps)  # type: ignore[assignment]
        if self._saved:
            self.run.load_state_dict(self._saved)  # type: ignore[union-attr]

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Let the method take the next weights."""
        if self.run is None:
            return
        self.run.epoch_end()
        if self.run.masks.share > self.until:
            self.run.masks = self.method.prune(pl_module, self.run.masks, None, ())

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Remove the hooks; masked weights stay zero."""
        if self.run is not None:
            self.run.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning keeps in its checkpoint."""
        return dict(self.run.state_dict()) if self.run is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` returned, for when training starts."""
        self._saved = state_dict
