"""What the training engine knows of a method: it attaches to an optimiser, and it says the next masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from .masks import Masks

__all__ = ["Attachment", "TrainingMethod"]


class Attachment(Protocol):
    """A method at work on an optimiser: a context manager, and leaving it removes its hooks."""

    @property
    def masks(self) -> Masks:
        """What is kept now."""
        ...

    @masks.setter
    def masks(self, masks: Masks) -> None:
        """Shrink the masks: weights and momentum that are masked now are zeroed at once."""

    @property
    def settled(self) -> bool:
        """Whether the network is what the method promises: before that no epoch of it is a result."""
        ...

    def epoch_end(self) -> None:
        """Do what the method does between epochs."""

    def calibrate(self, batches: Iterable[Any]) -> None:
        """Look at data before the first step, where the method has a use for them."""

    def notes(self) -> Mapping[str, float]:
        """Return figures of the last epoch for the log, under names of its columns."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything, besides model and optimiser, that a bit-equal resume needs."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned."""

    def detach(self) -> None:
        """Remove the hooks."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class TrainingMethod(Protocol):
    """The options of a method, as a frozen dataclass."""

    @property
    def label(self) -> str:
        """What reports call it."""
        ...

    def attach(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        masks: Masks | None = None,
        steps: int | None = None,
    ) -> Attachment:
        """Start work on an optimiser of the model's parameters, from `masks` on, for so many optimiser steps."""
        ...

    def prune(self, model: nn.Module, masks: Masks, share: float | None, batches: Iterable[Any]) -> Masks:
        """Return the next masks, within the given ones.

        `share` is that of all entries of the masks that is kept then; None leaves it to the method's own rule.
        """
        ...
