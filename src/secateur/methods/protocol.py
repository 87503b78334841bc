"""What every method is: a name, what it needs, and a draft of a smaller model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import nn

from secateur.case import Case
from secateur.report import FrozenPart, LossCurve, Sparsity, Structured
from secateur.selection import Budget
from secateur.statistics import Loss
from secateur.surgery import Plan
from secateur.training import Masks, Trained

__all__ = ["Draft", "Evidence", "Method", "Needs"]


@dataclass(frozen=True)
class Needs:
    """What a method has to be given, and what it has a use for. `prune` checks it before any work."""

    calibration: bool = False  # unlabelled batches must be given
    training: bool = False  # training must be given; else it must not
    budget: bool = False  # a budget must be given
    budgets: tuple[str, ...] | None = None  # the units of budgets that it can go to; None: it says so itself
    limits: bool = False  # it heeds limits
    distill: bool = False  # label-free distillation may follow
    result: bool = True  # it can go on from a result with zeros or blocks, and keeps them
    patches: bool = False  # statistics need moments of whole patches
    loss: Loss | None = None  # statistics need the gradients of this loss


@dataclass(frozen=True)
class Evidence:
    """What a method can say for the report, besides what is measured of every model."""

    max_masked_difference: float = 0.0  # the largest difference of outputs, masked - shrunk
    kept: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # group: (units kept, units before)
    curves: Mapping[str, LossCurve] = field(default_factory=dict)  # by group
    refused: Mapping[str, str] = field(default_factory=dict)  # group: why it was left whole
    frozen: tuple[FrozenPart, ...] = ()
    sparsity: Sparsity | None = None
    structure: Structured | None = None


@dataclass(frozen=True)
class Draft:
    """A smaller model before it is measured, the plan that makes it from the dense one, and the evidence.

    `step` says after what the model comes: pruned, recovered, distilled or finetuned. `budget` is what reports say was
    asked for, where it is not the budget. `timed` are the two networks to time, where they are not the models
    themselves but what a runtime made of them.
    """

    model: nn.Module
    plan: Plan
    step: str = "pruned"
    evidence: Evidence = Evidence()
    budget: str | None = None
    timed: tuple[nn.Module, nn.Module] | None = None
    masks: Masks | None = None
    trained: Trained | None = None


@runtime_checkable
class Method(Protocol):
    """A way to make a network smaller.

    Three bases give `draft`: `OfUnits` to methods that rank units (implement `rank`), `OfWeights` to methods that mask
    single weights while they train (implement `prune` and `rule`), `OfBlocks` to those that choose blocks of weights
    (implement `price`).
    """

    @property
    def label(self) -> str:
        """What reports call it."""
        ...

    @property
    def needs(self) -> Needs:
        """What it has to be given."""
        ...

    def draft(self, case: Case, budget: Budget | None) -> Draft:
        """Return a smaller copy of the case's model; the model stays as it is."""
        ...
