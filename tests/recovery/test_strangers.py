"""Repair of networks of other kinds: on samples that no step has seen it is never worse than before it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import FAMILIES
from models import randomise
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import secateur as sc
from secateur.ground.tensors import floating
from secateur.recovery import Joint


class Upscaler(nn.Module):
    """Super-resolution: residual blocks at the small size, and a shuffle of channels to pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 12, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(16, 12, 3, padding=1)
            )
            for _ in range(2)
        )
        self.tail = nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        for block in self.blocks:
            y = y + block(y)
        return nn.functional.pixel_shuffle(self.tail(y), 2)


class Autoencoder(nn.Module):
    """Codes pictures, and restores them by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(inplace=True), nn.Conv2d(16, 6, 3, 1, 1)
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(6, 16, 3, 1, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 4, 2, 1),
            nn.Hardswish(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))  # type: ignore[no-any-return]


def own(make: Callable[[], nn.Module]) -> tuple[nn.Module, Callable[[int, int], tuple[Any, ...]]]:
    torch.manual_seed(0)
    model = randomise(make(), 0).eval()
    return model, lambda n, seed: (torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed)),)


def stranger(name: str) -> tuple[nn.Module, Callable[[int, int], tuple[Any, ...]]]:
    if name in ("upscaler", "autoencoder"):
        return own(Upscaler if name == "upscaler" else Autoencoder)
    family = next(f for f in FAMILIES if f.name == name)
    return family.model(), family.inputs


@pytest.mark.parametrize("name", ["reader", "upscaler", "autoencoder", "conformer"])
def test_never_worse_on_unseen_samples(name: str) -> None:
    model, draw = stranger(name)
    calibration = [draw(32, seed) for seed in range(6)]
    unseen = draw(128, 99)
    errors: dict[str, float] = {}
    for way, joint, distill in (
        ("closed form", None, None),
        ("together", Joint(3), None),
        ("label-free", None, sc.Distill(steps=40, lr=3e-3)),
    ):
        result = sc.prune(
            model,
            draw(2, 0),
            method=sc.SNP(recovery=sc.Sequential(joint=joint)),
            budget=sc.Budget(macs=0.7),
            calibration=calibration,
            distill=distill,
            progress=False,
        )
        with torch.no_grad():
            dense, found = (floating(pytree.tree_leaves(net(*unseen))) for net in (model, result.model))
        errors[way] = sum(float(((a - b) ** 2).mean()) for a, b in zip(dense, found, strict=True))
    assert errors["together"] <= 1.02 * errors["closed form"]
    assert errors["label-free"] <= 1.02 * errors["closed form"]
