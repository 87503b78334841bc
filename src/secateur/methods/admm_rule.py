"""ADMM at work in an optimiser: the copies and duals of its weights, the stages, and the blocks that are fixed."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, fields
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from secateur.blocks import BlockPattern, Costs, Partition, block_costs
from secateur.blocks.held import Held
from secateur.blocks.splitting import Split, norm, pull_for, shared
from secateur.graph.trace import traced
from secateur.ground.errors import CalibrationError, TrainingError
from secateur.ground.inputs import Inputs
from secateur.ground.modes import evaluating
from secateur.statistics import collect, state_tensors
from secateur.training.hooks import Attached, Rule, Step
from secateur.training.masks import Masks
from secateur.training.parameters import parameters

from .block_costs import WeightError
from .microstructure import MicroStructured

__all__ = ["CHURN", "Pace", "Residual", "Splitting"]

_log = logging.getLogger(__name__)

CHURN = 0.5
"""Below this share of kept blocks that are kept again, a renewal throws the choice about: a warning says so."""

CALIBRATED_BATCHES = 8  # at most, of the data that a calibrated criterion looks at


@dataclass(frozen=True)
class Pace:
    """How ADMM goes through a stage; see `ADMM` for the meaning of each."""

    epochs: int
    every: int
    rhos: tuple[float, ...]
    residual: float
    tolerance: float


@dataclass(frozen=True)
class Residual:
    """Where ADMM is when its copies are to be renewed, over all weights with blocks, where the pattern changes them.

    `primal` is ``|W - Z| / |W|`` before, `dual` is ``|Z - Z_before| / |W|`` (0 where ``Z`` waits), `same` the share of
    the kept blocks that the renewal keeps as well, `magnitude` the share of those that the weights' magnitudes keep at
    the start of the run that are kept now.
    """

    step: int  # of the stage
    rho: float
    primal: float
    dual: float
    same: float
    magnitude: float


class Splitting(Rule):
    """What a run of ADMM knows: the stage, its copies and duals, and the patterns that are fixed."""

    def __init__(
        self, targets: tuple[MicroStructured, ...], pace: Pace, tied: bool, model: nn.Module
    ) -> None:
        self.targets, self.pace, self.tied, self.model = targets, pace, tied, model
        self.partitions: Mapping[str, Partition] = targets[-1].layers(model).partitions
        known = parameters(model)
        self.weights = {name: known[name] for name in self.partitions}
        self.stage = self.epoch = self.steps = self.since = 0
        self.checked = False  # in this epoch
        self.told = False
        self.strength = 0.0
        self.held: dict[str, Held] = {}
        self.splits: dict[str, Split] = {}
        self.stiffness: dict[str, Tensor] = {}
        self.residuals: list[Residual] = []
        self.attached: Attached | None = None
        with torch.no_grad():
            errors = {n: block_costs(p, self.weights[n].cpu()) for n, p in self.partitions.items()}
            self.first = [dict(target.patterns(model, self.partitions, errors)) for target in targets]
            self._start()

    def begin(self, attached: Attached) -> None:
        """Let fixed zeros become masks of the attachment."""
        self.attached = attached
        self._mask()

    @property
    def settled(self) -> bool:
        """Whether the blocks of the last stage are fixed."""
        return self.stage == len(self.targets)

    @property
    def rho(self) -> float:
        """The penalty of this epoch, or where none is given the strength of each step's pull."""
        rhos = self.pace.rhos
        if not rhos:
            return self.strength
        return rhos[min(self.epoch * len(rhos) // max(self.pace.epochs, 1), len(rhos) - 1)]

    def before(self, step: Step, masks: Masks) -> None:
        """Add the gradient of a given penalty, and let unified blocks move as one."""
        if self.waiting:
            raise TrainingError(
                f"{type(self.targets[-1].criterion).__name__} prices blocks on data: call attached.calibrate(batches) "
                "before the first step."
            )
        for name, weight, gradient in zip(step.names, step.weights, step.gradients):
            if name in self.splits and self.pace.rhos:
                split = self.splits[name]
                gradient.add_((split.gap(weight) + split.dual) * split.changed, alpha=self.rho)
            if name in self.held:
                self.held[name].gradient(gradient)

    def after(self, step: Step, masks: Masks) -> None:
        """Hold what is fixed, pull where no penalty is given, and renew the copies when it is time."""
        for name, weight in zip(step.names, step.weights):
            if name in self.splits and not self.pace.rhos:
                self.splits[name].pull(weight, self.strength)
            if name in self.held:
                self.held[name].weight(weight)
        if not self.settled:
            self.steps, self.since = self.steps + 1, self.since + 1
            if self.since >= self.pace.every:
                self._renew()

    def epoch_end(self, masks: Masks) -> None:
        """Renew the copies of an epoch that was shorter than that, and fix the stage's blocks when it is over."""
        if self.settled or self.waiting:
            return
        if not self.checked:
            self._renew()
        old, self.checked = self.rho, False
        self.epoch += 1
        last = self.residuals[-1]
        if self.epoch >= self.pace.epochs or max(last.primal, last.dual) < self.pace.tolerance:
            self._fix()
        elif self.rho != old:
            self._scale(old / self.rho)

    def calibrate(self, batches: Iterable[Any]) -> None:
        """Let the structure's criterion price the blocks, on the model as it is; nothing to do for weights' own errors.

        Raises:
            CalibrationError: there are no batches, or they do not fit the model.
            TraceError: the model cannot be exported.
        """
        if not self.waiting:
            return
        first = islice(batches, CALIBRATED_BATCHES)
        inputs = [batch[0] if isinstance(batch, tuple | list) else batch for batch in first]
        if not inputs:
            raise CalibrationError("There are no batches to price blocks on: give at least one.")
        criterion = self.targets[-1].criterion
        with evaluating(self.model), torch.no_grad():
            graph = traced(self.model, Inputs.of(inputs[0]))
            tensors = state_tensors(graph.program)
            nodes = [layer.node for layer in graph.layers if layer.weight in self.partitions]
            statistics = collect(graph, (), inputs, layers=nodes, patches=criterion.calibrated)
            costs = criterion(graph, self.partitions, tensors, statistics)
            for name, partition in self.partitions.items():
                self.stiffness[name] = _stiffness(
                    costs[name], block_costs(partition, self.weights[name].cpu())
                )
            self._start()

    @property
    def waiting(self) -> bool:
        """Whether a criterion has to see data before anything can be chosen."""
        return not isinstance(self.targets[-1].criterion, WeightError) and not self.stiffness

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that a resume needs."""
        at = [self.stage, self.epoch, self.steps, self.since, self.checked]
        state = {"at": torch.tensor([int(n) for n in at])}
        state["strength"] = torch.tensor(self.strength, dtype=torch.float64)
        rows = [astuple(r) for r in self.residuals]
        state["residuals"] = torch.tensor(rows, dtype=torch.float64).view(-1, len(fields(Residual)))
        for name in self.weights:
            if name in self.splits:
                split = self.splits[name]
                state |= {f"copy.{name}": split.copy, f"dual.{name}": split.dual}
                state[f"states.{name}"] = split.pattern.states
            if name in self.held:
                held = self.held[name]
                state |= {f"held.{name}": held.pattern.states, f"signs.{name}": held.signs}
            for number, first in enumerate(self.first):
                state[f"first.{number}.{name}"] = first[name].states
            if name in self.stiffness:
                state[f"stiffness.{name}"] = self.stiffness[name]
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned, on a model whose weights are those of that time."""
        self.stage, self.epoch, self.steps, self.since, checked = (int(n) for n in state["at"])
        self.checked, self.strength = bool(checked), float(state["strength"])
        self.residuals = [Residual(int(step), *rest) for step, *rest in state["residuals"].tolist()]
        self.held, self.splits, self.stiffness = {}, {}, {}
        for name, weight in self.weights.items():
            if f"copy.{name}" in state:
                copy, dual = (state[f"{what}.{name}"].to(weight) for what in ("copy", "dual"))
                self.splits[name] = Split.of(self._pattern(name, state[f"states.{name}"]), copy, dual)
            if f"held.{name}" in state:
                pattern, signs = self._pattern(name, state[f"held.{name}"]), state[f"signs.{name}"].cpu()
                self.held[name] = Held(weight.detach(), pattern, tied=self.tied, signs=signs)
            for number, first in enumerate(self.first):
                first[name] = self._pattern(name, state[f"first.{number}.{name}"])
            if f"stiffness.{name}" in state:
                self.stiffness[name] = state[f"stiffness.{name}"].cpu()

    def notes(self) -> Mapping[str, float]:
        """Return the last residual, for the log; after the blocks are fixed it stays what it was."""
        if not self.residuals:
            return {}
        return {name: value for name, value in asdict(self.residuals[-1]).items() if name != "step"}

    def _pattern(self, name: str, states: Tensor) -> BlockPattern:
        return BlockPattern(self.partitions[name], states.cpu())

    def _start(self) -> None:
        """Begin a stage: the copies are the projection, the duals are zero."""
        self.epoch = self.steps = self.since = 0
        self.strength = pull_for(self.pace.residual, self.pace.every)
        if self.settled or self.waiting:
            return
        weights = {name: weight.detach() for name, weight in self.weights.items()}
        patterns = self._chosen(weights)
        self.splits = {name: Split.start(patterns[name], weight) for name, weight in weights.items()}
        if not self.pace.epochs:
            self._fix()

    def _chosen(self, points: Mapping[str, Tensor]) -> dict[str, BlockPattern]:
        """Return the stage's patterns for some points: those nearest, each block as stiff as the criterion says."""
        costs = {name: block_costs(self.partitions[name], point.cpu()) for name, point in points.items()}
        if self.stiffness:
            costs = {name: _times(self.stiffness[name], found) for name, found in costs.items()}
        within = {name: held.pattern for name, held in self.held.items()}
        return self.targets[self.stage].patterns(self.model, self.partitions, costs, within)

    def _renew(self) -> None:
        """Take the Z- and the U-step, or pull harder where the weights have not followed yet."""
        steps, self.since, self.checked = self.since, 0, True
        size = norm(self.weights)
        primal = norm({n: s.gap(self.weights[n].detach()) for n, s in self.splits.items()}) / size
        dual, same = 0.0, 1.0
        rho = self.rho
        if self.pace.rhos or primal < self.pace.residual:
            old = self.splits
            points = {n: w.detach() + old[n].dual for n, w in self.weights.items()}
            patterns = self._chosen(points)
            self.splits = {n: s.renewed(patterns[n], self.weights[n].detach()) for n, s in old.items()}
            dual = norm({n: s.copy - old[n].copy for n, s in self.splits.items()}) / size
            same = shared({n: s.pattern for n, s in old.items()}, patterns)
        else:
            # Twice as hard; after an epoch shorter than `every`, at least as hard as so few steps need.
            self.strength = max(2 * self.strength, pull_for(self.pace.residual, steps))
            self._scale(rho / self.strength)
        magnitude = shared(self.first[self.stage], {n: s.pattern for n, s in self.splits.items()})
        self.residuals.append(Residual(self.steps, rho, primal, dual, same, magnitude))
        _log.info("ADMM stage %d, %s", self.stage + 1, self.residuals[-1])
        if same < CHURN and primal >= self.pace.residual and not self.told:
            self.told = True
            warnings.warn(_churning(self.residuals[-1], self.pace), stacklevel=2)

    def _scale(self, factor: float) -> None:
        """Keep y, of which the scaled duals are y / rho, when rho changes."""
        for split in self.splits.values():
            split.dual.mul_(factor)

    def _fix(self) -> None:
        """Project the weights onto the stage's patterns, for good, and go to the next stage."""
        for name, weight in self.weights.items():
            self.held[name] = Held(weight.detach(), self.splits[name].pattern, tied=self.tied)
        self.splits = {}
        self.stage += 1
        self._mask()
        self._start()

    def _mask(self) -> None:
        if self.attached is not None and self.held:
            zeros = Masks({n: h.pattern.mask().to(self.weights[n].device) for n, h in self.held.items()})
            self.attached.masks = self.attached.masks & zeros


def _stiffness(costs: Costs, plain: Costs) -> Tensor:
    """Return what a criterion's costs are of the plain squared errors, float64 (3, blocks)."""
    pairs = ((costs.zero, plain.zero), (costs.unify, plain.unify), (costs.energy, plain.energy))
    return torch.stack([priced / error.clamp_min(1e-30) for priced, error in pairs])


def _times(stiffness: Tensor, costs: Costs) -> Costs:
    zero = costs.zero * stiffness[0]
    return Costs(zero, torch.minimum(costs.unify * stiffness[1], zero), costs.energy * stiffness[2])


def _churning(found: Residual, pace: Pace) -> str:
    return (
        f"ADMM: only {found.same:.0%} of the blocks that were kept are kept after the choice was renewed "
        f"at step {found.step} (rhos={pace.rhos}, |W - Z| / |W| = {found.primal:.2f}). The weights do not "
        "follow, and what is chosen is little better than chance: leave rhos out, so that the pull follows from the "
        "training, give larger ones, or renew less often (every)."
    )
