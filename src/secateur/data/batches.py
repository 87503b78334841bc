"""Shuffled batches of images that lie in memory: one indexed copy for each batch, instead of one for each sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Shuffled", "shift_and_mirror", "shifted"]


@dataclass(frozen=True, eq=False)
class Shuffled:
    """Batches of `size` inputs and labels in a new order each time; what does not fill a batch is left out.

    Orders, and what `augment` draws, come from torch's generator.

    >>> [len(x) for x, y in Shuffled(torch.zeros(10, 2), torch.zeros(10), size=4)]
    [4, 4]
    """

    x: Tensor
    y: Tensor
    size: int
    augment: Callable[[Tensor], Tensor] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x))
        for start in range(0, len(self) * self.size, self.size):
            index = order[start : start + self.size]
            x = self.x[index]
            yield (x if self.augment is None else self.augment(x)), self.y[index]

    def __len__(self) -> int:
        return len(self.x) // self.size


def shifted(x: Tensor) -> Tensor:
    """Shift images (N, C, H, W) by up to four pixels each way, zeros behind them."""
    return _moved(x, torch.zeros(len(x), dtype=torch.bool))


def shift_and_mirror(x: Tensor) -> Tensor:
    """Shift as `shifted` does and mirror every other image: what CIFAR is usually trained with."""
    return _moved(x, torch.rand(len(x)) < 0.5)


def _moved(x: Tensor, mirrored: Tensor) -> Tensor:
    n, c, h, w = x.shape
    padded = nn.functional.pad(x, (4, 4, 4, 4))
    dy, dx = torch.randint(0, 9, (2, n, 1, 1, 1))
    across = torch.arange(w)
    columns = dx + torch.where(mirrored.view(n, 1, 1, 1), across.flip(0), across)
    rows = dy + torch.arange(h).view(1, 1, h, 1)
    return padded[torch.arange(n).view(n, 1, 1, 1), torch.arange(c).view(1, c, 1, 1), rows, columns]
