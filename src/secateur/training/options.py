"""What a training run is told: frozen, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .optimizers import Adam
from .schedules import Constant, Schedule

__all__ = ["Bound", "Checkpoints", "Crops", "Teacher", "Training", "Validation"]

Metric = Callable[[nn.Module], float]
Loss = Callable[[Any, Any], Tensor]
OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
CONSTANT = Constant()
ADAM = Adam()


@dataclass(frozen=True)
class Bound:
    """What the validation metric has to stay above: a value, or the dense model's less `drop`. Exactly one is given.

    >>> Bound(0.989).value(dense=0.993)
    0.989
    >>> Bound(drop=0.01).value(dense=0.75)
    0.74
    """

    above: float | None = None
    drop: float | None = None

    def __post_init__(self) -> None:
        if (self.above is None) == (self.drop is None):
            raise ValueError(f"{self!r}: give either a value, Bound(0.989), or a loss, Bound(drop=0.005).")
        if not math.isfinite(self.value(0.0)):
            raise ValueError(f"{self!r}: a bound is a finite number; a very low one always holds.")

    def __str__(self) -> str:
        return (
            f"above {self.above:g}"
            if self.above is not None
            else f"at most {self.drop:g} below the dense model"
        )

    def value(self, dense: float) -> float:
        """Return the value, given the dense model's metric."""
        return self.above if self.above is not None else dense - (self.drop or 0.0)


@dataclass(frozen=True)
class Validation:
    """How a network is judged while it is trained: on data held out of the training set, never on the test set.

    `measure` is called with a model in evaluation mode and returns a number, higher is better; or it is an iterable
    of (inputs, labels), on which top-1 accuracy is taken. The result is the sparsest network above `bound`. A round
    ends early after `patience` validations in a row without a new best one.
    """

    measure: Metric | Iterable[Any]
    bound: Bound | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience={self.patience} must be at least 1 validation.")


@dataclass(frozen=True)
class Teacher:
    """A network to learn from: ``(1 - weight) * loss + weight * distillation_loss`` is lowered."""

    model: nn.Module
    temperature: float = 4.0
    weight: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or self.temperature <= 0:
            raise ValueError(
                f"weight={self.weight} must lie in 0..1, and temperature={self.temperature} be above 0."
            )


@dataclass(frozen=True)
class Crops:
    """Prune while training: each `every` steps, where the metric is above the bound, `fraction` of what is left goes.

    The pace of irrelevance decay (Bonetta et al. 2023): regularisation shrinks, and a crop takes what has shrunk.
    """

    every: int = 250
    fraction: float = 0.04

    def __post_init__(self) -> None:
        if self.every < 1 or not 0 < self.fraction < 1:
            raise ValueError(f"{self}: every is at least 1 step, fraction lies between 0 and 1.")


@dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps its state and its log, so that it can be killed at any moment and resumed.

    `folder` holds ``checkpoint.safetensors`` (replaced as a whole after every epoch and, if given, `every` steps),
    ``log.csv``, and TensorBoard's event files where that package is installed. With `resume` a run goes on from what
    the folder holds, or starts if it holds nothing.
    """

    folder: str | PathLike[str]
    resume: bool = False
    every: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(f"every={self.every} must be at least 1 step.")


@dataclass(frozen=True)
class Training:
    """How to train between prunings: `iterations` rounds of prune, train for `epochs`, validate.

    `loader` yields (inputs, labels), `loss(outputs, labels)` is lowered. Without a bound the best epoch of the last
    round is the result. With `crops` there is one round, and pruning happens within it. Then `finetune` epochs follow
    with masks fixed and without the method. Each round has a new optimiser, made from the parameters that require a
    gradient, and goes through `schedule` anew; it starts from the last round's weights, or from the state dict
    `rewind` (what survives is trained again from there, as NN-relief does with the initial weights of LeNets).
    A step takes the mean gradient of `accumulate` batches. `bf16` computes in bfloat16 where autocast allows it.

    Raises:
        ValueError: a number is out of range, or options contradict one another.
    """

    loader: Iterable[Any]
    loss: Loss = F.cross_entropy
    epochs: int = 1
    iterations: int = 1
    finetune: int = 0
    validation: Validation | None = None
    crops: Crops | None = None
    rewind: Mapping[str, Tensor] | None = None
    optimizer: OptimizerFactory = ADAM
    schedule: Schedule = CONSTANT
    teacher: Teacher | None = None
    accumulate: int = 1
    bf16: bool = False
    checkpoints: Checkpoints | None = None

    def __post_init__(self) -> None:
        if min(self.epochs, self.iterations, self.accumulate) < 1 or self.finetune < 0:
            raise ValueError(
                f"epochs={self.epochs}, iterations={self.iterations} and accumulate={self.accumulate} must be at least "
                f"1, finetune={self.finetune} at least 0."
            )
        if self.crops is None:
            return
        if self.iterations != 1 or self.rewind is not None:
            raise ValueError("Crops happen within one round: leave out iterations and rewind.")
        if self.validation is None or self.validation.bound is None:
            raise ValueError(
                "Crops wait for the metric to be above a bound: give validation=Validation(..., bound=Bound(...))."
            )
