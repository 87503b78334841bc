"""The loop: prune, train, validate, checkpoint; for any method of the protocol, at either pace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.ground.copies import copied
from secateur.ground.describe import describe
from secateur.ground.devices import device_of
from secateur.ground.errors import BoundError, CheckpointError, DataError, TrainingError
from secateur.ground.modes import evaluating
from secateur.ground.modes import training as training_mode
from secateur.ground.processes import digest, require_same
from secateur.ground.progress import counting

from . import randomness
from .checkpoint import (
    fitting,
    kept_in,
    load_optimizer,
    load_weights,
    optimizer_state,
    resumed,
    under,
    weights,
    write,
)
from .finetune import pairs
from .hooks import attach
from .judge import Judge
from .log import Log, Row
from .masks import Masks
from .objective import Objective
from .options import Training
from .protocol import Attachment, TrainingMethod
from .session import Placed, Session, length
from .stages import Stage, stages
from .start import check_rewind, start_masks
from .state import Snapshot, State

__all__ = ["Trained", "train"]


@dataclass(frozen=True)
class Trained:
    """A network with the masks that hold, and how it was found."""

    model: nn.Module  # masked weights are zero; its shapes are the dense model's
    masks: Masks
    dense: float | None  # the validation metric of the model that was given
    metric: float | None  # of this one
    rows: tuple[Row, ...]


def train(
    model: nn.Module,
    method: TrainingMethod,
    training: Training,
    *,
    share: float | None = None,
    masks: Masks | None = None,
    calibration: Iterable[Any] | None = None,
    seed: int = 0,
) -> Trained:
    """Prune and train a copy of a model in turns; the model stays as it is.

    `share` is the share of all parameters' entries that pruning leaves at the end (None: the method's own rule).
    `masks` are what an earlier run left, to go on from: they only shrink (default: everything).
    `calibration` yields what the method scores on, in this process's share (default: the training data). The result
    is the sparsest validated network above the bound, or without a bound the best epoch of the last round. Under
    ``accelerate launch`` or torchrun every process gives the same loader, of which it trains on its share.

    Raises:
        BoundError: no network was above the bound.
        TrainingError: the loss, a gradient or the metric is not finite; the last checkpoint stays as it is.
        CheckpointError: the folder holds another run, or a checkpoint that cannot be read.
        DataError: the loader is empty, or yields something else than (inputs, labels).
    """
    with randomness.kept_apart(training.loader):
        return _Run(model, method, training, share, masks, calibration, seed).result()


class _Run:
    """The tools of a run and its state."""

    def __init__(
        self,
        model: nn.Module,
        method: TrainingMethod,
        training: Training,
        share: float | None,
        masks: Masks | None,
        calibration: Iterable[Any] | None,
        seed: int,
    ) -> None:
        self.given, self.method, self.training, self.seed = model, method, training, seed
        self.session = Session(training.bf16, device_of(model))
        self.model = copied(model).to(self.session.device)
        require_same(digest(weights(self.model)), "weights", "load the same checkpoint in each of them")
        self.net = self.session.wrapped(self.model)
        self.loader = self.session.batches(training.loader)
        self.calibration = Placed(self.loader if calibration is None else calibration, self.session)
        self.objective = Objective(self.net, training, self.session)
        self.judge = Judge(self.model, training.validation, self.session)
        start = start_masks(self.model, masks)
        self.stages = stages(training, share, start.share)
        self.length = length(self.loader)
        self.steps = None if self.length is None else math.ceil(self.length / training.accumulate)
        self.state = State(start)
        self.recipe = {
            "model": describe(model),
            "method": describe(method),
            "training": describe(replace(training, checkpoints=None)),  # where it is kept changes nothing
            "share": share,
            "masks": None if masks is None else describe(dict(masks)),
            "seed": seed,
        }
        check_rewind(self.model, training.rewind)
        self.folder = None if training.checkpoints is None else Path(training.checkpoints.folder)
        self.found = self._restored()

    def result(self) -> Trained:
        """Go through the stages and return what was chosen."""
        state, started = self.state, self.found is not None
        total = None if self.steps is None else self.steps * sum(stage.epochs for stage in self.stages)
        self.clock = time.perf_counter() - state.seconds
        with ExitStack() as stack:
            stack.enter_context(training_mode(self.model))
            self.log = (
                stack.enter_context(Log(self.folder, state.rows))
                if self.folder is not None and self.session.main
                else None
            )
            self.advance: Callable[[str], None] = stack.enter_context(
                counting(f"training, {self.method.label}", total, state.step)
            )
            if not started and self.judge.asked:
                state.dense = self.judge()
                self._note(state.dense, None)
            while state.stage < len(self.stages):
                self._stage(self.stages[state.stage])
                self._save()
        chosen = self._chosen()
        load_weights(self.model, chosen.weights)
        chosen.masks.applied(self.model)
        self.model.zero_grad()
        device = next((p.device for p in self.given.parameters()), self.session.device)
        masks = Masks({name: mask.to(device) for name, mask in chosen.masks.items()})
        return Trained(self.model.to(device), masks, state.dense, chosen.metric, tuple(state.rows))

    def _stage(self, stage: Stage) -> None:
        state = self.state
        if not state.begun:
            self._begin(stage)
        optimizer = self.training.optimizer([p for p in self.model.parameters() if p.requires_grad])
        self.rates = [float(group["lr"]) for group in optimizer.param_groups]
        tensors, data = self.found or ({}, {})
        if data.get("optimizer") is not None:
            with fitting(self.folder):
                load_optimizer(optimizer, under(tensors, "optimizer"), data["optimizer"])
        with self._attached(stage, optimizer) as attachment:
            if data.get("optimizer") is not None:
                with fitting(self.folder):
                    attachment.load_state_dict(under(tensors, "attachment"))
            else:
                attachment.calibrate(self.calibration)
            while state.epoch < stage.epochs and not self._tired():
                self._epoch(stage, optimizer, attachment)
        self.found = None
        self._end(stage)

    def _begin(self, stage: Stage) -> None:
        """Prune, or return to the chosen network, before a stage trains."""
        state = self.state
        if stage.tunes:
            state.best = self._chosen()
            state.masks = state.best.masks
            load_weights(self.model, state.best.weights)
        if stage.prunes:
            randomness.seed(self.seed, state.stage, 0, loader=self.training.loader)
            state.masks = self._pruned(stage.share)
            if self.training.rewind is not None:
                self.model.load_state_dict(self.training.rewind)
        state.masks.applied(self.model)
        state.record, state.stale, state.begun = None, 0, True

    def _epoch(self, stage: Stage, optimizer: torch.optim.Optimizer, attachment: Attachment) -> None:
        """Train for an epoch, or for what is left of the one that was interrupted."""
        state, kept = self.state, self.training.checkpoints
        loader = self.training.loader
        randomness.seed(self.seed, state.stage, state.epoch + 1, loader=loader)
        if callable(set_epoch := getattr(getattr(loader, "sampler", None), "set_epoch", None)):
            set_epoch(state.epoch)
        batches = pairs(self.loader)
        if state.batch:
            done = sum(1 for _ in islice(batches, state.batch))
            if done < state.batch or self.found is None:
                raise CheckpointError(
                    f"The loader yields {done} batches, the checkpoint has seen {state.batch} in this epoch."
                )
            with fitting(self.folder):
                randomness.restore(under(self.found[0], "random"), loader)
        self.found = None
        where = f"round {state.stage + 1} of {len(self.stages)}, epoch {state.epoch + 1} of {stage.epochs}"
        while group := list(islice(batches, self.training.accumulate)):
            self._set_rates(stage, optimizer)
            optimizer.zero_grad()
            value = self._backward(group, where)
            optimizer.step()
            state.step, state.batch = state.step + 1, state.batch + len(group)
            state.losses, state.counted = state.losses + value, state.counted + 1
            self.advance(where)
            if stage.crops is not None and state.step % stage.crops.every == 0:
                self._validate_and_crop(stage, attachment, float(optimizer.param_groups[0]["lr"]))
                if self._tired():
                    break
            if kept is not None and kept.every is not None and state.step % kept.every == 0:
                self._save(optimizer, attachment)
        if not state.batch:
            raise DataError(
                f"The loader yields no batches in epoch {state.epoch + 1}: give a DataLoader or a list of "
                "(inputs, labels), not an iterator, which is used up once."
            )
        attachment.epoch_end()
        state.epoch, state.batch = state.epoch + 1, 0
        if stage.crops is None:
            self._validate(attachment, float(optimizer.param_groups[0]["lr"]))
        self._save(optimizer, attachment)

    def _backward(self, group: list[tuple[Any, Any]], where: str) -> float:
        """Make the gradients of the mean loss of some batches, and return it as the mean over processes."""
        total = 0.0
        for number, (inputs, labels) in enumerate(group, 1):
            with self.session.summing(self.net, number == len(group)):
                loss = self.objective(self.session.placed(inputs), self.session.placed(labels)) / len(group)
                value = self.session.mean(loss)
                if not math.isfinite(value):
                    raise TrainingError(
                        f"The loss is {value} at step {self.state.step + 1} ({where}). {self._remedy()}"
                    )
                loss.backward()
            total += value
        return total

    def _validate(self, attachment: Attachment, rate: float) -> None:
        """Judge the network after an epoch and keep it if it is the best of its round."""
        state = self.state
        if attachment.masks.kept < state.masks.kept:  # the method has pruned while it trained
            state.record, state.stale = None, 0
        state.masks = attachment.masks
        metric = self.judge() if self.judge.asked else None
        if attachment.settled:
            found = self._snapshot(metric)
            if found.beats(state.best):
                state.best = found
            if self.judge.above(metric, state.dense) and found.beats(state.chosen):
                state.chosen = found
            self._count(metric)
        self._note(metric, rate, **attachment.notes())

    def _validate_and_crop(self, stage: Stage, attachment: Attachment, rate: float) -> None:
        """Judge the network; where it is above the bound, choose it and take the next part of its connections."""
        state, crops = self.state, stage.crops
        assert crops is not None
        metric = self.judge()
        self._note(metric, rate)
        self._count(metric)
        if not self.judge.above(metric, state.dense):
            return
        found = self._snapshot(metric)
        if found.beats(state.chosen):
            state.chosen = found
        target, left = stage.share or 0.0, state.masks.share
        if left <= target:
            return
        with torch.no_grad():
            smaller = self._pruned(max(left * (1 - crops.fraction), target))
        if smaller.kept < state.masks.kept:
            attachment.masks = state.masks = smaller
            state.record, state.stale = None, 0

    def _end(self, stage: Stage) -> None:
        """Take the stage's best network on, and go to the next stage, or past the rounds that would only be worse."""
        state = self.state
        state.stage += 1
        if stage.crops is None:
            if state.best is None:
                raise TrainingError(
                    f"{self.method.label} was not done after the {stage.epochs} epochs of its round: train for more."
                )
            load_weights(self.model, state.best.weights)
            state.masks = state.best.masks
            if not stage.tunes and not self.judge.above(state.best.metric, state.dense):
                while state.stage < len(self.stages) and not self.stages[state.stage].tunes:
                    state.stage += 1
        state.best, state.begun, state.epoch, state.batch = None, False, 0, 0

    def _attached(self, stage: Stage, optimizer: torch.optim.Optimizer) -> Attachment:
        masks = self.state.masks
        if stage.tunes:
            return attach(self.model, optimizer, masks=masks)
        steps = None if self.steps is None else self.steps * stage.epochs
        return self.method.attach(self.model, optimizer, masks=masks, steps=steps)

    def _pruned(self, share: float | None) -> Masks:
        """Return smaller masks by the method, the same in all processes."""
        masks = self.state.masks
        self.session.share_buffers(self.model)
        with evaluating(self.model):
            smaller = masks & self.method.prune(self.model, masks, share, self.calibration)
        require_same(digest(smaller.state_dict()), "masks", "give each the same method and options")
        return smaller

    def _chosen(self) -> Snapshot:
        if self.state.chosen is None:
            raise BoundError(self.judge.never_met(self.state.rows, self.state.dense))
        return self.state.chosen

    def _snapshot(self, metric: float | None) -> Snapshot:
        return Snapshot(weights(self.model), self.state.masks, metric, self.state.step)

    def _set_rates(self, stage: Stage, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rates of the next step."""
        epoch = self.state.epoch + (self.state.batch / self.length if self.length else 0.0)
        factor = self.training.schedule(epoch, stage.epochs)
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def _count(self, metric: float | None) -> None:
        state = self.state
        if metric is not None and (state.record is None or metric > state.record):
            state.record, state.stale = metric, 0
        else:
            state.stale += 1

    def _tired(self) -> bool:
        patience = self.training.validation.patience if self.training.validation else None
        return patience is not None and self.state.stale >= patience

    def _note(self, metric: float | None, rate: float | None, **notes: Any) -> None:
        """Add a row to the log."""
        state = self.state
        state.seconds = time.perf_counter() - self.clock
        loss = state.losses / state.counted if state.counted else None
        place = (0, 0) if rate is None else (state.stage + 1, state.epoch + (state.batch > 0))
        row = Row(state.step, *place, loss, rate, metric, state.masks.share, state.seconds, **notes)
        state.losses, state.counted = 0.0, 0
        state.rows.append(row)
        if self.log is not None:
            self.log.add(row)

    def _save(
        self, optimizer: torch.optim.Optimizer | None = None, attachment: Attachment | None = None
    ) -> None:
        if self.folder is None:
            return
        self.session.share_buffers(self.model)
        if self.session.main:
            self.state.seconds = time.perf_counter() - self.clock
            tensors, numbers = (None, None) if optimizer is None else optimizer_state(optimizer)
            families: dict[str, Mapping[str, Tensor]] = {
                "model": weights(self.model),
                "optimizer": tensors or {},
                "attachment": attachment.state_dict() if attachment is not None else {},
                "random": randomness.snapshot(self.training.loader),
                **self.state.tensors(),
            }
            write(
                kept_in(self.folder),
                families,
                {"recipe": self.recipe, "state": self.state.to_json(), "optimizer": numbers},
            )
        self.session.wait()

    def _restored(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Go on from the folder's checkpoint, if there is one."""
        kept = self.training.checkpoints
        if kept is None or self.folder is None or not kept_in(self.folder).exists():
            return None
        tensors, data = resumed(self.folder, kept.resume, self.recipe)
        with fitting(self.folder):
            load_weights(self.model, under(tensors, "model"))
            restored = State.restored(tensors, data["state"])
            for field in fields(State):
                setattr(self.state, field.name, getattr(restored, field.name))
        return tensors, data

    def _remedy(self) -> str:
        kept = f"The checkpoint in {self.folder} is from before. " if self.folder is not None else ""
        return f"{kept}Lower the learning rate, clip gradients, or look for bad samples."
