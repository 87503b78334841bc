"""Optimisers as plain data, so that a recipe can say them; any callable that makes one will do as well."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["SGD", "Adam", "AdamW"]


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with Nesterov's momentum where there is any."""

    lr: float = 1e-2
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self.lr, self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} must lie in 0..1, below 1.")

    def __call__(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimiser of some parameters."""
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.momentum > 0,
        )


@dataclass(frozen=True)
class Adam:
    """Adam; weight decay goes through the gradient."""

    lr: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self.lr, self.weight_decay)

    def __call__(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimiser of some parameters."""
        return torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay."""

    lr: float = 1e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        _check(self.lr, self.weight_decay)

    def __call__(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimiser of some parameters."""
        return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)


def _check(lr: float, weight_decay: float) -> None:
    if not lr > 0 or not weight_decay >= 0:
        raise ValueError(f"lr={lr} must be above 0, weight_decay={weight_decay} not below.")
