"""Prune while the Hugging Face Trainer trains: a callback that attaches a method to its optimiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from secateur.ground.errors import UsageError
from secateur.training import Attached, TrainingMethod
from secateur.training.checkpoint import read, write

__all__ = ["Pruning"]


class Pruning(TrainerCallback):
    """Attach a method when training begins, let it prune after each epoch, and keep its state beside the checkpoints.

    After each epoch in which more than the share `until` of the weights is left, `method.prune` takes the next ones;
    with ``until=1.0`` only what the method does by itself in each step happens. `run` is the attachment, whose masks
    say what is left. Its state lies in the Trainer's checkpoint folders, as ``pruning.safetensors``; a run that was
    interrupted goes on from them (``resume_from_checkpoint=``) as if it had not been.

    Raises:
        UsageError: `until` is not above 0 and at most 1.
    """

    def __init__(self, method: TrainingMethod, until: float = 0.5) -> None:
        if not 0 < until <= 1:
            raise UsageError(
                f"until={until!r} must be above 0 and at most 1: the share of the weights at which pruning ends."
            )
        self.method, self.until = method, until
        self.run: Attached | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Attach the method, where a checkpoint left it."""
        assert model is not None
        assert optimizer is not None
        self.run = self.method.attach(model, optimizer, steps=state.max_steps)  # type: ignore[assignment]
        if self._file(args, state).exists():
            tensors, _ = read(self._file(args, state))
            self.run.load_state_dict({name.partition("/")[2]: t for name, t in tensors.items()})  # type: ignore[union-attr]

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Let the method take the next weights."""
        if self.run is None or model is None:
            return
        self.run.epoch_end()
        if self.run.masks.share > self.until:
            self.run.masks = self.method.prune(model, self.run.masks, None, ())

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the state of the attachment into the Trainer's checkpoint."""
        if self.run is not None and state.is_world_process_zero:
            write(self._file(args, state), {"pruning": self.run.state_dict()}, {})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remove the hooks; masked weights stay zero."""
        if self.run is not None:
            self.run.detach()

    def _file(self, args: TrainingArguments, state: TrainerState) -> Path:
        return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}" / "pruning.safetensors"
