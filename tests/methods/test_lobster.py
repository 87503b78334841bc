from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from secateur.ground.errors import DataError, TrainingError
from secateur.methods import Lobster
from secateur.training import Masks


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 3))


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 32, 5, generator=generator)
    return [(a, a[:, :3].argmax(1)) for a in x]


def train(model: nn.Module, optimizer: SGD, data: list[tuple[Tensor, Tensor]]) -> None:
    for x, y in data:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def trained(seed: int = 0) -> nn.Sequential:
    model = network(seed)
    train(model, SGD(model.parameters(), 0.1, 0.9), batches(60))
    return model


def test_steps_are_those_of_the_update_rule() -> None:
    one, two = network().double(), network().double()
    optimizer = SGD(one.parameters(), 0.1)
    data = [(x.double(), y) for x, y in batches(4)]
    torch.manual_seed(1)
    with Lobster(strength=0.05).attach(one, optimizer):
        train(one, optimizer, data)
    torch.manual_seed(1)
    for x, y in data:
        gradients = torch.autograd.grad(F.cross_entropy(two(x), y), list(two.parameters()))
        with torch.no_grad():
            for p, g in zip(two.parameters(), gradients, strict=True):
                p -= 0.1 * g
                p -= 0.05 * (1 - g.abs()).clamp_min(0) * p
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def mean_loss(model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> float:
    with torch.no_grad():
        return sum(float(F.cross_entropy(model(x), y)) for x, y in data) / len(data)


@pytest.mark.parametrize("seed", [0, 1])
def test_as_much_goes_as_the_loss_bears(seed: int) -> None:
    model, data = trained(seed), batches(6)
    states = {k: v.clone() for k, v in model.state_dict().items()}
    found = [Lobster(tolerance=t).prune(model, Masks(), None, data) for t in (0.01, 0.1, 1.0)]
    for name, value in model.state_dict().items():
        assert torch.equal(value, states[name])
    assert model.training
    model.eval()
    base = mean_loss(model, data)
    for tolerance, masks in zip((0.01, 0.1, 1.0), found, strict=True):
        masks.applied(model)
        assert mean_loss(model, data) <= (1 + tolerance) * base * (1 + 1e-6)
        model.load_state_dict(states)
    assert found[1].share < 1
    assert all(b <= a for a, b in pairwise(found))
    tight = found[0].share
    assert Lobster(empty_layers=True).prune(model, found[0], 0.1, ()).share == pytest.approx(0.1, abs=0.01)
    assert Lobster().prune(model, found[0], 1.0, ()).share == tight


def test_what_is_refused() -> None:
    with pytest.raises(TrainingError, match="strength=2"):
        Lobster(strength=2)
    with pytest.raises(TrainingError, match="tolerance=0"):
        Lobster(tolerance=0)
    with pytest.raises(DataError, match="batches"):
        Lobster().prune(network(), Masks(), None, [])
    with pytest.raises(DataError, match="pairs"):
        Lobster().prune(network(), Masks(), None, [torch.randn(2, 5)])
    broken = [(torch.full((2, 5), float("nan")), torch.zeros(2, dtype=torch.long))]
    with pytest.raises(TrainingError, match="not finite"):
        Lobster().prune(network(), Masks(), None, broken)
