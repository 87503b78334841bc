"""Random small problems: activations, consumers that read them, and what least squares really makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.methods import Reader

__all__ = ["Problem", "gram_reader"]


@dataclass(frozen=True)
class Problem:
    """Consumers of the same units: activations x (samples, d), weights (rows, d), columns (units, b)."""

    inputs: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    columns: Tensor

    @staticmethod
    def draw(
        seed: int, units: int, width: int = 1, readers: int = 1, samples: int = 200, rows: int = 3
    ) -> Problem:
        rng = torch.Generator().manual_seed(seed)
        d = units * width
        mix = torch.randn(d, d, generator=rng, dtype=torch.float64)
        scale = torch.rand(d, generator=rng, dtype=torch.float64) + 0.1
        inputs = []
        for _ in range(readers):
            x = torch.randn(samples, d, generator=rng, dtype=torch.float64) @ mix * scale
            inputs.append(x.clamp_min(0) + 0.1 * x)
        weights = tuple(torch.randn(rows, d, generator=rng, dtype=torch.float64) for _ in range(readers))
        columns = torch.randperm(d, generator=rng).view(units, width)
        return Problem(tuple(inputs), weights, columns)

    @property
    def units(self) -> int:
        return len(self.columns)

    def powers(self) -> list[float]:
        return [float(((x @ w.T) ** 2).mean(0).sum()) for x, w in zip(self.inputs, self.weights)]

    def readers(self) -> list[Reader]:
        return [
            Reader(x.T @ x / len(x), w, self.columns, power)
            for x, w, power in zip(self.inputs, self.weights, self.powers())
        ]

    def loss(self, kept: Sequence[int]) -> float:
        """Return the relative error of all consumers' outputs, refitted to the kept units on the data themselves."""
        total = 0.0
        own = self.columns[torch.tensor(sorted(kept), dtype=torch.long)].flatten()
        for x, w, power in zip(self.inputs, self.weights, self.powers()):
            y = x @ w.T
            fitted = (
                torch.linalg.lstsq(x[:, own], y, driver="gelsd").solution
                if len(own)
                else torch.zeros(0, y.shape[1])
            )
            total += float(((y - x[:, own] @ fitted.double()) ** 2).mean(0).sum()) / power
        return total


def gram_reader(gram: Tensor, columns: Tensor | None = None, rows: int = 2) -> Reader:
    """Return a reader with these moments and unit weights."""
    if columns is None:
        columns = torch.arange(len(gram))[:, None]
    return Reader(gram, torch.ones(rows, len(gram), dtype=torch.float64), columns, 1.0)
