"""A task that trains in a second, and the plainest method of the protocol."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import secateur as sc
from secateur.measure import batches, top1
from secateur.methods import OfWeights
from secateur.training.masks import Masks

Adam = partial(torch.optim.Adam, lr=0.02)


@dataclass(frozen=True)
class Smallest(OfWeights):
    """Global magnitude over everything; without a share half of what is left goes."""

    label: str = "smallest"

    def prune(self, model: nn.Module, masks: Masks, share: float | None, batches: Iterable[Any]) -> Masks:
        values = {n: p.detach().abs().masked_fill(~masks[n], -1) for n, p in masks.of(model).items()}
        flat = torch.cat([v.flatten() for v in values.values()])
        keep = int(masks.total * (masks.share / 2 if share is None else share))
        least = flat.topk(keep).values[-1]
        return Masks({n: v >= least for n, v in values.items()})


def data(n: int = 256, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=generator)
    return x, (x @ torch.randn(8, 3, generator=torch.Generator().manual_seed(9))).argmax(1)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(8, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 3)
    ).eval()


def loader(batch: int = 32, seed: int = 0) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*data(seed=seed)), batch, shuffle=True)


def options(**changes: Any) -> sc.Training:
    """Return two epochs on the task, or what is changed of that."""
    return sc.Training(**{"loader": loader(), "epochs": 2, "optimizer": Adam, **changes})


def accuracy(model: nn.Module) -> float:
    return top1(model, batches(*data(128, seed=1)))
