"""Blocks of rows x 4 inputs, which the int8 kernels take: projected, compensated and trained like any other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.blocks import PRESETS, ZERO, Block
from secateur.methods.admm import ADMM
from secateur.runtime.int8 import INT8_HEIGHTS, Levels, pack_int8

BLOCKS = [Block(height, 4) for height in INT8_HEIGHTS]


class Network(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.AvgPool2d(4), nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 4),
        )  # fmt: skip


def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


def data() -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(16, 3, 8, 8, generator=rng) for _ in range(4)]


def stored(weight: Tensor, block: Block) -> float:
    """Return the share of blocks that the kernels would store."""
    whole = (weight / weight.abs().max() * 127).round().to(torch.int8)
    whole[weight != 0] = whole[weight != 0].where(whole[weight != 0] != 0, torch.tensor(1, dtype=torch.int8))
    packed = pack_int8(whole, torch.ones(len(whole)), x=Levels(1.0, 0), height=block.rows)
    return packed.values.numel() / weight.numel()


def test_they_are_presets() -> None:
    assert all(PRESETS[str(block)] == block for block in BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_one_shot(block: Block) -> None:
    dense, x = network(), torch.cat(data())
    errors = {}
    for label, recovery in (("projected", None), ("compensated", sc.Compensate(sweeps=2))):
        method = sc.MicroStructured(block, zero=0.5, recovery=recovery)
        result = sc.prune(dense, x[:2], method=method, calibration=data(), progress=False)
        with torch.no_grad():
            errors[label] = float(((result.model(x) - dense(x)) ** 2).mean())
        assert set(result.plan.patterns) == {"2.weight", "6.weight"}
        for name, pattern in result.plan.patterns.items():
            assert pattern.share(ZERO) == 0.5
            assert stored(result.model.get_parameter(name).detach(), block) == 0.5
    assert errors["compensated"] < 0.9 * errors["projected"]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_trained(block: Block) -> None:
    model = network().train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    with ADMM(sc.MicroStructured(block, zero=0.75), epochs=2).attach(model, optimizer) as attached:
        for _ in range(4):
            for x in data():
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()
            attached.epoch_end()
    for name in ("2.weight", "6.weight"):
        assert stored(model.get_parameter(name).detach(), block) == 0.25
