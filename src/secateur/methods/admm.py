"""ADMM towards micro-structures (arXiv 2106.08301; the form of Zhang et al., arXiv 1804.03294), then retraining.

Minimise ``f(W)`` subject to ``W`` in ``S``, the weights that obey some pattern with the wanted shares: with a copy
``Z`` in ``S`` and a scaled dual ``U``, training minimises ``f(W) + rho/2 |W - Z + U|^2``; from time to time ``Z``
becomes the projection of ``W + U`` onto ``S`` and ``U`` grows by ``W - Z``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from torch import nn

from secateur.blocks import Blockable, BlockPattern, Shares
from secateur.ground.errors import StructureError, TrainingError
from secateur.training import Training
from secateur.training.hooks import Rule
from secateur.training.masks import Masks
from secateur.training.parameters import unwrap

from .admm_rule import Pace, Residual, Splitting
from .kinds.weights import OfWeights
from .microstructure import MicroStructured
from .protocol import Needs

__all__ = ["ADMM", "Residual"]


@dataclass(frozen=True)
class ADMM(OfWeights):
    """Train towards a micro-structure, project onto it, and train what is left under it.

    Each of the `stages`, shares of zero and unified blocks that lead up to those of `structure`, takes `epochs`
    epochs, or less once both residuals are below `tolerance`; then its blocks are fixed. The rest of the training,
    which had better be most of it, has zero blocks at zero, and unified ones `tied` (one magnitude, signs fixed) or
    frozen. With ``epochs=0`` weights are projected at once: pruning by magnitude. In `prune(..., training=...)` the
    result is an epoch after the last projection: with a validation the best of the sparsest.

    ``Z`` and ``U`` are renewed every `every` optimiser steps, and at the end of shorter epochs. The penalty follows
    from the training: after each step weights of blocks that are to change are pulled towards ``Z - U``, so that
    `residual` of the way is left after `every` steps, whatever the learning rate is (rho is the pull over the learning
    rate), and ``Z`` moves only when ``|W - Z| / |W|`` is below `residual`; until then the pull doubles. With `rhos` the
    penalty's gradient is added instead, they are taken in turn through the epochs of a stage, and nothing is waited
    for: if the choice of blocks is then thrown about, a warning says so.

    A `structure` with a criterion that looks at data chooses in its metric: what a block costs by the criterion at the
    start, of what its weights' squared error says, is its stiffness from then on. In `prune` it looks at the
    calibration data; in a loop of your own call ``attached.calibrate(batches)`` before the first step.

    Raises:
        StructureError: a number is out of range, or stages do not lead up to the structure.

    >>> ADMM.prune_first(MicroStructured(zero=0.7, unify=0.15), epochs=2).stages
    (Shares(zero=0.7, unify=0.0),)
    """

    structure: MicroStructured = field(default_factory=MicroStructured)
    epochs: int = 3
    rhos: tuple[float, ...] = ()
    every: int = 50
    residual: float = 0.3
    tolerance: float = 1e-3
    stages: tuple[Shares, ...] = ()
    tied: bool = True

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.every < 1 or self.tolerance < 0:
            raise StructureError(
                f"epochs={self.epochs}, every={self.every}, tolerance={self.tolerance}: epochs and tolerance are 0 or "
                "above, every at least 1."
            )
        if not 0 < self.residual < 1:
            raise StructureError(
                f"residual={self.residual} is out of range: it lies between 0 and 1, as 0.3."
            )
        if self.rhos and not min(self.rhos) > 0:
            raise StructureError(
                f"rhos={self.rhos!r}: give numbers above 0, as (0.02, 0.05, 0.1), or none, so that the pull follows "
                "from the training."
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
    def prune_first(structure: MicroStructured, epochs: int = 3, **options: Any) -> ADMM:
        """Return ADMM in two stages, first the zeros, then the unified blocks (the order of US20210397963)."""
        return ADMM(structure, epochs, stages=(Shares(structure.zero, 0.0),), **options)

    @staticmethod
    def gradually(structure: MicroStructured, stages: int = 3, epochs: int = 1, **options: Any) -> ADMM:
        """Return ADMM in several stages, each of which zeroes the same part of the blocks that are left.

        Between them the weights move, and the next zeros are chosen by what they are then. Where most blocks are to go
        that finds better ones than the magnitudes at the start do. Unified blocks come with the last stage.

        Raises:
            StructureError: there is no stage, or all blocks are to be zero.

        >>> [round(s.zero, 3) for s in ADMM.gradually(MicroStructured(zero=0.9)).stages]
        [0.536, 0.785]
        """
        if stages < 1 or structure.zero >= 1:
            raise StructureError(
                f"stages={stages}, zero={structure.zero}: there is at least one stage, and some block is not zero."
            )
        left = [(1 - structure.zero) ** (k / stages) for k in range(1, stages)]
        return ADMM(structure, epochs, stages=tuple(Shares(1 - share) for share in left), **options)

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
        pace = Pace(self.epochs, self.every, self.rhos, self.residual, self.tolerance)
        return Splitting(self.structures(), pace, self.tied, unwrap(model))

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
