"""One verb for both ways of pruning: at once, or while training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, overload

from torch import Tensor, nn

from . import api
from .api import Evaluate, Result
from .measure import Timer
from .methods import Method, MicroStructured
from .recovery import Distill
from .selection import Budget
from .sparse import SparseResult, prune_in_training
from .training import Training, TrainingMethod

__all__ = ["prune"]

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]


@overload
def prune(
    model: nn.Module,
    example_inputs: Example,
    *,
    method: Method,
    budget: Budget,
    calibration: Iterable[Any],
    exclude: Iterable[str | type[nn.Module]] = (),
    keep: Mapping[str, float] | None = None,
    round_to: int = 1,
    floor: int = 1,
    uniform: bool = False,
    streams: bool = False,
    distill: Distill | None = None,
    evaluate: Evaluate | None = None,
    timer: Timer | None = None,
    progress: bool = True,
    seed: int = 0,
) -> Result: ...


@overload
def prune(
    model: nn.Module | Result,
    example_inputs: Example,
    *,
    method: TrainingMethod,
    training: Training,
    budget: Budget | None = None,
    calibration: Iterable[Any] | None = None,
    dense: nn.Module | None = None,
    evaluate: Evaluate | None = None,
    progress: bool = True,
    seed: int = 0,
) -> SparseResult: ...


def prune(
    model: nn.Module | Result,
    example_inputs: Example,
    *,
    method: Any,
    training: Training | None = None,
    **options: Any,
) -> Result:
    """Return a smaller or sparser copy of a trained model, measured; the model stays as it is.

    A method that scores units (`SNP`) removes them at once and repairs what is left: see `secateur.api.prune` for
    the options. A method that trains (`GradualMagnitude`) prunes and trains in turns, as `training` says: see
    `secateur.sparse.prune_in_training`, which also goes on from a result.

    Raises:
        TypeError: the method needs `training`, or has no use for it, or is one for `micro_structure`; or a method
            that scores units is given a result.
    """
    if isinstance(method, MicroStructured):
        raise TypeError(
            "MicroStructured keeps every unit: call sc.micro_structure(model, x, method=...), or train towards it with "
            "method=sc.ADMM(...)."
        )
    trains = hasattr(method, "attach")
    if trains and training is None:
        raise TypeError(
            f"{type(method).__name__} prunes while it trains: give training=sc.Training(loader, ...), or attach it "
            "to an optimiser of yours."
        )
    if not trains and training is not None:
        raise TypeError(
            f"{type(method).__name__} prunes without training: leave training out, and train its result with "
            "sc.finetune."
        )
    if training is None:
        if isinstance(model, Result):
            raise TypeError(
                f"{type(method).__name__} removes units, which comes first: prune the dense model, and let "
                "micro_structure or training go on from the result."
            )
        return api.prune(model, example_inputs, method=method, **options)
    return prune_in_training(model, example_inputs, method=method, training=training, **options)
