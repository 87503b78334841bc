"""A low-rank adapter beside a layer counts as what it adds to the layer, as if it had been merged."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.graph import Graph, trace
from secateur.statistics import collect


class Lora(nn.Module):
    """A layer and adapters of rank 2, each scaled by a number, as peft writes them."""

    def __init__(self, base: nn.Module, pairs: list[tuple[nn.Module, nn.Module]], scale: float = 0.5) -> None:
        super().__init__()
        self.base, self.scale, self.drop = base, scale, nn.Dropout(0.1)
        self.down, self.up = (nn.ModuleList(p[i] for p in pairs) for i in (0, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        for down, up in zip(self.down, self.up):
            y = y + up(down(self.drop(x))) * self.scale
        return y


def linear(adapters: int) -> Lora:
    pairs = [(nn.Linear(24, 2, bias=False), nn.Linear(2, 16, bias=False)) for _ in range(adapters)]
    return Lora(nn.Linear(24, 16), pairs)


def convolution() -> Lora:
    pair = nn.Conv2d(24, 2, 3, padding=1, bias=False), nn.Conv2d(2, 16, 1, bias=False)
    return Lora(nn.Conv2d(24, 16, 3, padding=1), [pair])


def merged(lora: Lora) -> nn.Module:
    layer = lora.base
    with torch.no_grad():
        for down, up in zip(lora.down, lora.up):
            added = up.weight.flatten(1) @ down.weight.flatten(1)
            layer.weight += lora.scale * added.view_as(layer.weight)
    return layer


class Block(nn.Module):
    """A residual branch whose last layer has adapters."""

    def __init__(self, layer: Callable[..., nn.Module], last: nn.Module) -> None:
        super().__init__()
        self.up, self.last, self.out = layer(16, 24), last, layer(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + self.last(torch.relu(self.up(x))))


CASES = {
    "one": (nn.Linear, lambda: linear(1), (16,)),
    "two": (nn.Linear, lambda: linear(2), (16,)),
    "tokens": (nn.Linear, lambda: linear(1), (5, 16)),
    "convolution": (lambda i, o: nn.Conv2d(i, o, 1), convolution, (16, 4, 4)),
}


def block(name: str, merge: bool) -> tuple[nn.Module, Graph, list[Tensor]]:
    torch.manual_seed(0)
    layer, make, shape = CASES[name]
    model = Block(layer, make()).double().eval()
    if merge:
        model.last = merged(model.last)
    x = torch.randn(256, *shape, dtype=torch.float64)
    return model, trace(model, x[:2]), list(x.split(64))


@pytest.mark.parametrize("name", CASES)
def test_a_group_is_ranked_as_if_its_readers_adapters_were_merged(name: str) -> None:
    rankings = []
    for merge in (False, True):
        _, graph, batches = block(name, merge)
        (group,) = (g for g in graph.groups if g.id == "up")
        statistics = collect(graph, graph.groups, batches, patches=True)
        rankings.append(sc.SNP().rank(graph, group, statistics))
        assert len(graph.adapters) == (0 if merge else len(CASES[name][1]().down))
    torch.testing.assert_close(rankings[0].loss, rankings[1].loss, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_a_network_with_adapters_is_pruned_as_well_as_the_merged_one(name: str) -> None:
    errors = []
    for merge in (False, True):
        model, _, batches = block(name, merge)
        result = sc.prune(
            model,
            batches[0][:2],
            method=sc.SNP(),
            budget=sc.Budget(macs=0.7),
            calibration=batches,
            progress=False,
        )
        with torch.no_grad():
            errors.append(sum(float((result.model(x) - model(x)).square().mean()) for x in batches))
    assert errors[0] < 2 * errors[1]


def test_what_only_looks_like_an_adapter_is_none() -> None:
    class Other(Lora):
        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.up[0](torch.relu(self.down[0](x)))

    class Elsewhere(Lora):
        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.up[0](self.down[0](torch.tanh(x)))

    class Wide(Lora):
        pass

    def pair(rank: int) -> list[tuple[nn.Module, nn.Module]]:
        return [(nn.Linear(24, rank), nn.Linear(rank, 16))]

    for last in (
        Other(nn.Linear(24, 16), pair(2)),
        Elsewhere(nn.Linear(24, 16), pair(2)),
        Wide(nn.Linear(24, 16), pair(20)),
    ):
        assert trace(Block(nn.Linear, last).eval(), torch.zeros(2, 16)).adapters == ()


def test_those_of_peft_are_found() -> None:
    peft = pytest.importorskip("peft")
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["2"], init_lora_weights=False)
    ).eval()
    (adapter,) = trace(wrapped, torch.zeros(2, 8)).adapters
    assert adapter.base.module.endswith("2.base_layer")
    assert adapter.down.module.endswith("lora_A.default")
    assert adapter.scale == 4.0  # alpha / r, by default 8 / 2
