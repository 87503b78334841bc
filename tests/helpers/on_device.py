"""Runs of everything on one device, and what has to hold there: used with the stand-in and with GPUs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur import methods, recovery

__all__ = ["BATCHES", "RUNS", "Branched", "inputs", "labelled", "on", "run"]


class Branched(nn.Module):
    """Convolutions with BatchNorm, a residual sum and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second, self.other = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.join = nn.Conv2d(16, 16, 1)
        self.hidden, self.out = nn.Linear(16, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = x + self.join(self.other(self.second(x)).relu())
        out: Tensor = self.out(self.hidden(x.mean((2, 3))).relu())
        return out


def inputs(seed: int = 0) -> Tensor:
    return torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


BATCHES = inputs().split(16)


def labelled() -> list[tuple[Tensor, Tensor]]:
    y = torch.randint(0, 5, (64,), generator=torch.Generator().manual_seed(1))
    return list(zip(BATCHES, y.split(16), strict=True))


def _training(**options: Any) -> sc.Training:
    return sc.Training(labelled(), F.cross_entropy, **{"epochs": 1, **options})


RUNS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "snp": lambda: {"method": sc.SNP()},
    "snp, one pass": lambda: {"method": sc.SNP(recovery=sc.OnePass(centred=True))},
    "snp, zca": lambda: {"method": sc.SNP(order=methods.ZCA())},
    "snp, pivot": lambda: {"method": sc.SNP(order=methods.Pivot())},
    "snp, joint": lambda: {
        "method": sc.SNP(recovery=recovery.Sequential(joint=recovery.Joint(iterations=2, samples=32)))
    },
    "distilled": lambda: {"method": sc.SNP(), "distill": sc.Distill(steps=3)},
    "magnitude": lambda: {"method": sc.Magnitude()},
    "taylor": lambda: {"method": sc.Taylor()},
    "fluctuation": lambda: {"method": sc.Fluctuation()},
    "activation magnitude": lambda: {"method": sc.ActivationMagnitude()},
    "gains": lambda: {"method": sc.BatchNormScale()},
    "blocks": lambda: {"method": sc.MicroStructured(sc.Block(8, 1), zero=0.5), "budget": None},
    "unified": lambda: {"method": sc.MicroStructured(sc.Block(2, 2), zero=0.3, unify=0.3), "budget": None},
    "admm": lambda: {
        "method": sc.ADMM(sc.MicroStructured(sc.Block(8, 1), zero=0.5), 1),
        "training": _training(epochs=6),
        "budget": None,
        "calibration": None,
    },
    "relief": lambda: {
        "method": sc.NNRelief(),
        "training": _training(),
        "budget": sc.Budget(weights=0.6),
        "calibration": None,
    },
    "decay": lambda: {
        "method": sc.IrrelevanceDecay(),
        "training": _training(),
        "budget": sc.Budget(weights=0.6),
        "calibration": None,
    },
    "gradual": lambda: {
        "method": sc.GradualMagnitude(share=0.5),
        "training": _training(),
        "budget": None,
        "calibration": None,
    },
    "dead units": lambda: {"method": sc.DeadUnits(), "budget": None, "calibration": None},
}


def on(device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return copy.deepcopy(Branched()).eval().to(device, dtype)


def run(name: str, model: nn.Module, dtype: torch.dtype = torch.float32) -> sc.Result:
    """Prune a model, wherever it is, with inputs and data on the processor."""
    options = {"budget": sc.Budget(macs=0.6), "calibration": [x.to(dtype) for x in BATCHES]} | RUNS[name]()
    return sc.prune(model, inputs()[:4].to(dtype), progress=False, **options)
