from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer

from secateur.ground.errors import TrainingError
from secateur.methods import GradualMagnitude
from secateur.training import LayerWise, Masks


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 50), nn.LayerNorm(50), nn.ReLU(), nn.Linear(50, 10))


def step(model: nn.Module, optimizer: Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randn(8, 20, generator=generator)).square().mean().backward()
    optimizer.step()


def test_the_share_follows_the_cubic_schedule() -> None:
    model = network()
    optimizer = SGD(model.parameters(), 0.1, 0.9)
    method = GradualMagnitude(0.1, every=5, begin=0.1, end=0.8, empty_layers=True)
    shares = []
    with method.attach(model, optimizer, steps=100) as run:
        assert list(run.masks) == ["0.weight", "3.weight"]
        before = run.masks
        for n in range(100):
            step(model, optimizer, n)
            shares.append(run.masks.share)
            assert run.masks <= before
            before = run.masks
            for name, parameter in model.named_parameters():
                if name in before:
                    assert not parameter[~before[name]].any()
    for done, share in enumerate(shares, start=1):
        last = min(done, 80) // 5 * 5  # prunings come after steps 10, 15, ..., 80
        zeros = 0.0 if last < 10 else 0.9 + (0 - 0.9) * (1 - (last - 10) / 70) ** 3
        assert share == pytest.approx(1 - zeros, abs=1 / 1500)
    assert shares[-1] == pytest.approx(0.1, abs=1 / 1500)


def test_layer_by_layer_each_keeps_its_share() -> None:
    model = network()
    optimizer = SGD(model.parameters(), 0.1)
    with GradualMagnitude(0.2, every=4, scope=LayerWise()).attach(model, optimizer, steps=30) as run:
        for n in range(30):
            step(model, optimizer, n)
    assert {n: int(m.sum()) for n, m in run.masks.items()} == {"0.weight": 200, "3.weight": 100}


def test_it_starts_from_what_is_masked_already_and_resumes() -> None:
    method = GradualMagnitude(0.2, every=3, empty_layers=True)
    start = method.prune(network(), Masks(), 0.6, ())
    assert start.share == pytest.approx(0.6)
    assert method.prune(network(), start, None, ()) == start

    def run(stops: bool) -> tuple[Masks, list[torch.Tensor]]:
        model = network()
        optimizer = SGD(model.parameters(), 0.1, 0.9)
        attached = method.attach(model, optimizer, masks=start, steps=24)
        for n in range(24):
            if stops and n == 10:
                attached.detach()
                state = {k: v.clone() for k, v in attached.state_dict().items()}
                attached = method.attach(model, optimizer, masks=attached.masks, steps=24)
                attached.load_state_dict(state)
            step(model, optimizer, n)
        return attached.masks, list(model.parameters())

    (whole, first), (resumed, second) = run(False), run(True)
    assert whole == resumed
    assert whole.share == pytest.approx(0.2)
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))


def test_vectors_are_pruned_on_demand() -> None:
    masks = GradualMagnitude(vectors=True).prune(network(), Masks(), 0.9, ())
    assert masks.total == sum(p.numel() for p in network().parameters())
    assert not masks["1.bias"].any()


def test_what_is_refused() -> None:
    model = network()
    with pytest.raises(TrainingError, match="steps="):
        GradualMagnitude().attach(model, SGD(model.parameters(), 0.1))
    for options in ({"share": 0.0}, {"share": 1.2}, {"every": 0}, {"begin": 0.5, "end": 0.2}, {"end": 1.5}):
        with pytest.raises(TrainingError, match=next(reversed(options))):
            GradualMagnitude(**options)
