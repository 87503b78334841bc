"""ADMM towards micro-structures (arXiv 2106.08301; the form of Zhang et al., arXiv 1804.03294), then retraining.

Minimise ``f(W)`` subject to ``W`` in ``S``, the weights that obey some pattern with the wanted shares: with a copy
``Z`` in ``S`` and a scaled dual ``U``, training minimises ``f(W) + rho/2 |W - Z + U|^2``; between epochs ``Z`` becomes
the projection of ``W + U`` onto ``S`` and ``U`` grows by ``W - Z``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from secateur.blocks import Blockable, BlockPattern, Partition, Shares, block_costs
from secateur.blocks.held import Held
from secateur.ground.errors import StructureError, TrainingError
from secateur.training import Training
from secateur.training.hooks import Attached, Rule, Step
from secateur.training.masks import Masks
from secateur.training.parameters import parameters, unwrap

from .kinds.weights import OfWeights
from .microstructure import MicroStructured
from .protocol import Needs

__all__ = ["ADMM", "Residual"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Residual:
    """How far ADMM is after an epoch: ``|W - Z| / |W|`` and ``|Z - Z_before| / |W|``, over all weights with blocks."""

    epoch: int
    rho: float
    primal: float
    dual: float


@dataclass(frozen=True)
class ADMM(OfWeights):
    """Train towards a micro-structure, project onto it, and train what is left under it.

    Each of the `stages`, shares of zero and unified blocks that lead up to those of `structure`, takes `epochs`
    epochs, or less once both residuals are below `tolerance`; then its blocks are fixed. The rest of the training
    has zero blocks at zero, and unified ones `tied` (one magnitude, signs fixed) or frozen. Through the epochs of a
    stage `rhos` are taken in turn; `Z` and `U` are renewed every `every` epochs. With ``epochs=0`` weights are
    projected at once: pruning by magnitude. In `prune(..., training=...)` the result is an epoch after the last
    projection: with a validation the best of the sparsest.

    Raises:
        StructureError: a number is out of range, or stages do not lead up to the structure.

    >>> ADMM.prune_first(MicroStructured(zero=0.7, unify=0.15), epochs=6).stages
    (Shares(zero=0.7, unify=0.0),)
    """

    structure: MicroStructured = field(default_factory=MicroStructured)
    epochs: int = 12
    rhos: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    every: int = 1
    tolerance: float = 1e-3
    stages: tuple[Shares, ...] = ()
    tied: bool = True

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.every < 1 or self.tolerance < 0:
            raise StructureError(
                f"epochs={self.epochs}, every={self.every}, tolerance={self.tolerance}: epochs and tolerance are 0 or "
                "above, every at least 1."
            )
        if not self.rhos or min(self.rhos) <= 0:
            raise StructureError(
                f"rhos={self.rhos!r}: give one or more numbers above 0, as (1e-3, 1e-2, 1e-1)."
            )
        path = [*self.stages, Shares(self.structure.zero, self.structure.unify)]
        for a, b in pairwise(path):
            if b.zero < a.zero or b.unify < a.unify:
                raise StructureError(f"The stages must lead up to the structure: {a} comes before {b}.")
        if self.stages and self.structure.shares:
            raise StructureError(
                "Stages have no say over layers with shares of their own: leave one of the two out."
            )

    @staticmethod
    def prune_first(structure: MicroStructured, epochs: int = 12, **options: Any) -> ADMM:
        """Return ADMM in two stages, first the zeros, then the unified blocks (the order of US20210397963)."""
        return ADMM(structure, epochs, stages=(Shares(structure.zero, 0.0),), **options)

    @property
    def least_epochs(self) -> int:
        """Epochs until the last projection, at most."""
        return self.epochs * len(self.structures())

    @property
    def needs(self) -> Needs:
        """What it has to be given: training, and no budget."""
        return replace(super().needs, budgets=())

    @property
    def label(self) -> str:
        """What reports call it."""
        return f"{'ADMM' if self.epochs else 'block magnitude'}, {self.structure.label}"

    def names(self, model: nn.Module) -> tuple[str, ...]:
        """Return the weights that are cut into blocks."""
        return tuple(self.structure.layers(unwrap(model)).partitions)

    def rule(self, model: nn.Module, masks: Masks, steps: int | None) -> Rule:
        """Return what draws weights towards blocks; stages count epochs, so that `steps` does not matter.

        Raises:
            StructureError: no weight of the model can be cut into such blocks.
        """
        return _Rule(self, unwrap(model))

    def check(self, training: Training) -> None:
        """Check that a training is long enough, and does not part unified blocks in the end.

        Raises:
            StructureError: it has too few epochs, or fine-tunes without the method.
        """
        super().check(training)
        if training.finetune and self.structure.unify:
            raise StructureError(
                "Fine-tuning without the method would part unified blocks: leave finetune out, and give Training more "
                "epochs, of which those after the last projection train under the pattern."
            )

    def blocks(self, model: nn.Module) -> tuple[Mapping[str, BlockPattern], Blockable]:
        """Return the blocks that a trained model's weights obey."""
        return self.structure.observed(model), self.structure.layers(model)

    def prune(self, model: nn.Module, masks: Masks, share: float | None, batches: Iterable[Any]) -> Masks:
        """Return the masks as they are: zeros come while the network trains.

        Raises:
            TrainingError: a share is asked for; it is the structure that says it.
        """
        if share is not None:
            raise TrainingError(
                "ADMM prunes to the shares of its structure: leave the budget out, or set MicroStructured(zero=...)."
            )
        return masks

    def structures(self) -> tuple[MicroStructured, ...]:
        """Return the structure at the end of each stage."""
        return (
            *(replace(self.structure, zero=s.zero, unify=s.unify) for s in self.stages),
            self.structure,
        )


class _Rule(Rule):
    """What a run of ADMM knows: the stage, its copies and duals, and the patterns that are fixed."""

    def __init__(self, method: ADMM, model: nn.Module) -> None:
        self.method, self.model = method, model
        self.targets = method.structures()
        self.partitions: Mapping[str, Partition] = method.structure.layers(model).partitions
        known = parameters(model)
        self.weights = {name: known[name] for name in self.partitions}
        self.stage = self.epoch = 0
        self.held: dict[str, Held] = {}
        self.copies: dict[str, Tensor] = {}
        self.duals: dict[str, Tensor] = {}
        self.patterns: dict[str, BlockPattern] = {}
        self.residuals: list[Residual] = []
        self.attached: Attached | None = None
        with torch.no_grad():
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
        """The penalty of this epoch."""
        return self._rho_of(self.epoch)

    def before(self, step: Step, masks: Masks) -> None:
        """Add the gradient of the penalty, and let unified blocks move as one."""
        for name, weight, gradient in zip(step.names, step.weights, step.gradients):
            if name in self.copies:
                gradient.add_(weight - self.copies[name] + self.duals[name], alpha=self.rho)
            if name in self.held:
                self.held[name].gradient(gradient)

    def after(self, step: Step, masks: Masks) -> None:
        """Hold what is fixed."""
        for name, weight in zip(step.names, step.weights):
            if name in self.held:
                self.held[name].weight(weight)

    def epoch_end(self, masks: Masks) -> None:
        """Take the Z- and the U-step, and fix the stage's blocks when it is over."""
        if self.settled:
            return
        old = self.rho
        self.epoch += 1
        last = self.epoch >= self.method.epochs
        if self.epoch % self.method.every == 0 or last:
            found = self._update()
            self.residuals.append(found)
            _log.info("ADMM stage %d, %s", self.stage + 1, found)
            last |= max(found.primal, found.dual) < self.method.tolerance
        if last:
            self._fix()
        elif self.rho != old:
            # The scaled dual is y / rho: y stays.
            for dual in self.duals.values():
                dual.mul_(old / self.rho)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that a resume needs."""
        state = {"at": torch.tensor([self.stage, self.epoch])}
        state["residuals"] = torch.tensor(
            [[r.epoch, r.rho, r.primal, r.dual] for r in self.residuals], dtype=torch.float64
        ).view(-1, 4)
        for name in self.weights:
            if name in self.copies:
                state |= {f"copy.{name}": self.copies[name], f"dual.{name}": self.duals[name]}
                state[f"states.{name}"] = self.patterns[name].states
            if name in self.held:
                state |= {
                    f"held.{name}": self.held[name].pattern.states,
                    f"signs.{name}": self.held[name].signs,
                }
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned, on a model whose weights are those of that time."""
        self.stage, self.epoch = (int(n) for n in state["at"])
        self.residuals = [Residual(int(e), *rest) for e, *rest in state["residuals"].tolist()]
        self.held, self.copies, self.duals, self.patterns = {}, {}, {}, {}
        for name, weight in self.weights.items():
            if f"copy.{name}" in state:
                self.copies[name] = state[f"copy.{name}"].to(weight)
                self.duals[name] = state[f"dual.{name}"].to(weight)
                self.patterns[name] = self._pattern(name, state[f"states.{name}"])
            if f"held.{name}" in state:
                pattern, signs = self._pattern(name, state[f"held.{name}"]), state[f"signs.{name}"].cpu()
                self.held[name] = Held(weight.detach(), pattern, tied=self.method.tied, signs=signs)

    def _pattern(self, name: str, states: Tensor) -> BlockPattern:
        return BlockPattern(self.partitions[name], states.cpu())

    def _start(self) -> None:
        """Begin a stage: the copies are the projection, the duals are zero."""
        self.epoch = 0
        if self.settled:
            return
        self._project({name: weight.detach() for name, weight in self.weights.items()})
        self.duals = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        if not self.method.epochs:
            self._fix()

    def _project(self, points: Mapping[str, Tensor]) -> None:
        costs = {name: block_costs(self.partitions[name], point.cpu()) for name, point in points.items()}
        within = {name: held.pattern for name, held in self.held.items()}
        self.patterns = self.targets[self.stage].patterns(self.model, self.partitions, costs, within)
        self.copies = {name: self.patterns[name].project(point) for name, point in points.items()}

    def _update(self) -> Residual:
        before = self.copies
        self._project({name: w.detach() + self.duals[name] for name, w in self.weights.items()})
        for name, weight in self.weights.items():
            self.duals[name].add_(weight.detach() - self.copies[name])
        size = _norm(self.weights)
        primal = _norm({n: w - self.copies[n] for n, w in self.weights.items()}) / size
        dual = _norm({n: z - before[n] for n, z in self.copies.items()}) / size
        return Residual(len(self.residuals) + 1, self._rho_of(self.epoch - 1), primal, dual)

    def _rho_of(self, epoch: int) -> float:
        rhos = self.method.rhos
        return rhos[min(epoch * len(rhos) // max(self.method.epochs, 1), len(rhos) - 1)]

    def _fix(self) -> None:
        """Project the weights onto the stage's patterns, for good, and go to the next stage."""
        for name, weight in self.weights.items():
            self.held[name] = Held(weight.detach(), self.patterns[name], tied=self.method.tied)
        self.copies, self.duals = {}, {}
        self.stage += 1
        self._mask()
        self._start()

    def _mask(self) -> None:
        if self.attached is not None and self.held:
            zeros = Masks({n: h.pattern.mask().to(self.weights[n].device) for n, h in self.held.items()})
            self.attached.masks = self.attached.masks & zeros


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.stack([t.detach().double().norm() for t in tensors.values()]).norm().clamp_min(1e-300))
