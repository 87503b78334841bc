"""ADMM towards blocks: steps against the equations, fixed blocks, ties, stages, and a resume that changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.blocks import UNIFY, ZERO, Block, BlockPattern, Partition, Shares, block_costs, choose
from secateur.blocks.held import Held
from secateur.ground.errors import StructureError, TrainingError
from secateur.methods import MicroStructured
from secateur.methods.admm import ADMM
from secateur.training import Masks

BOTH = MicroStructured(Block(4, 1), zero=0.5, unify=0.25, skip=())


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 8),
        nn.ReLU(),
        nn.Linear(8, 4),
    )


def data() -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(1)
    return [
        (torch.randn(16, 2, 4, 4, generator=rng), torch.randint(0, 4, (16,), generator=rng)) for _ in range(4)
    ]


OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, attachment: Any, epochs: int) -> None:
    for _ in range(epochs):
        for x, y in data():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        attachment.epoch_end()


def pattern_of(model: nn.Module, name: str, structure: MicroStructured) -> BlockPattern:
    """Read a pattern back from the weights."""
    partition = structure.layers(model).partitions[name]
    blocks = partition.blocks(model.get_parameter(name).detach().abs()).flatten(4)
    states = torch.zeros(partition.grid, dtype=torch.int8)
    states[(blocks == blocks[..., :1]).all(-1)] = UNIFY
    states[(blocks == 0).all(-1)] = ZERO
    return BlockPattern(partition, states)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("tied", [True, False])
def test_the_end_obeys_the_structure_and_blocks_have_moved(optimiser: str, tied: bool) -> None:
    model = network()
    optimizer = OPTIMISERS[optimiser](model.parameters())
    with ADMM(BOTH, epochs=3, tied=tied).attach(model, optimizer) as attached:
        train(model, optimizer, attached, 3)
        fixed = {n: pattern_of(model, n, BOTH) for n in BOTH.layers(model).partitions}
        middle = copy.deepcopy(model.state_dict())
        train(model, optimizer, attached, 2)
    assert len(fixed) == 3
    for name, pattern in fixed.items():
        assert (pattern.share(ZERO), pattern.share(UNIFY)) == (0.5, 0.25)
        after = model.get_parameter(name).detach()
        assert pattern.obeyed(after)
        assert torch.equal(attached.masks[name], pattern.mask())
        unified = pattern.unified()
        assert torch.equal(middle[name][unified], after[unified]) != tied
        assert torch.equal(
            middle[name][unified].sign() * after[unified] >= 0, torch.ones_like(after[unified]).bool()
        )
        kept = pattern.mask() & ~unified
        assert not torch.equal(middle[name][kept], after[kept])


def test_the_steps_are_those_of_the_equations() -> None:
    """One epoch of one step, by hand: W, then Z = P(W + U), then U."""
    structure = MicroStructured(Block(2, 1), zero=0.5, skip=())
    model = nn.Linear(3, 4, bias=False)
    x, y = torch.randn(5, 3), torch.randn(5, 4)
    partition = Partition(Block(2, 1), (4, 3))

    def projected(point: Tensor) -> Tensor:
        return choose(partition, block_costs(partition, point), 0.5).project(point)

    w, z, u = model.weight.detach().clone(), projected(model.weight.detach()), torch.zeros(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with ADMM(structure, epochs=9, rhos=(0.5, 2.0), tolerance=0).attach(model, optimizer) as attached:
        for epoch in range(8):
            rho = 0.5 if epoch < 5 else 2.0
            if epoch == 5:
                u = u * 0.5 / 2.0  # y = rho u stays
            optimizer.zero_grad()
            ((model(x) - y) ** 2).sum().backward()
            optimizer.step()
            attached.epoch_end()
            w = w - 0.1 * (2 * (x @ w.T - y).T @ x + rho * (w - z + u))
            z = projected(w + u)
            u = u + w - z
            torch.testing.assert_close(model.weight.detach(), w, rtol=1e-4, atol=1e-5)
    state = attached.state_dict()
    assert [r[1] for r in state["rule.residuals"].tolist()] == [0.5] * 5 + [2.0] * 3


@pytest.mark.parametrize("shares", [(0.5, 0.0), (0.5, 0.25)])
def test_on_a_convex_loss_it_converges(shares: tuple[float, float]) -> None:
    """With many steps an epoch and a penalty beyond the loss's curvature, the two copies meet."""
    torch.manual_seed(3)
    model = nn.Linear(12, 16, bias=False)
    x, y = torch.randn(64, 12), torch.randn(64, 16)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    structure = MicroStructured(Block(4, 1), *shares, skip=())
    with ADMM(structure, epochs=30, rhos=(1.0, 10.0), tolerance=0).attach(model, optimizer) as attached:
        for _ in range(29):
            for _ in range(60):
                optimizer.zero_grad()
                (((model(x) - y) ** 2).sum() / 64).backward()
                optimizer.step()
            attached.epoch_end()
    residuals = attached.state_dict()["rule.residuals"]
    assert len(residuals) == 29
    assert residuals[-1, 2:].max() < 1e-2


def test_a_converged_stage_ends_early() -> None:
    model = network()
    optimizer = OPTIMISERS["sgd"](model.parameters())
    with ADMM(BOTH, epochs=50, tolerance=10.0).attach(model, optimizer) as attached:
        train(model, optimizer, attached, 2)
    assert len(attached.state_dict()["rule.residuals"]) == 1
    assert attached.masks.share < 1


def test_stages_prune_first_and_only_add() -> None:
    model = network()
    optimizer = OPTIMISERS["sgd"](model.parameters())
    with ADMM.prune_first(BOTH, epochs=2).attach(model, optimizer) as attached:
        train(model, optimizer, attached, 2)
        zeros = attached.masks
        assert all(pattern_of(model, n, BOTH).share(UNIFY) == 0 for n in zeros)
        train(model, optimizer, attached, 2)
    assert attached.masks == zeros
    assert all(pattern_of(model, n, BOTH).share(UNIFY) == 0.25 for n in zeros)


def test_without_epochs_weights_are_projected_at_once() -> None:
    model = network()
    dense = copy.deepcopy(model)
    method = ADMM(BOTH, epochs=0)
    with method.attach(model, OPTIMISERS["sgd"](model.parameters())) as attached:
        pass
    assert method.label.startswith("block magnitude")
    for name, partition in BOTH.layers(model).partitions.items():
        weight = dense.get_parameter(name).detach()
        expected = choose(partition, block_costs(partition, weight), 0.5, 0.25)
        assert torch.equal(model.get_parameter(name), expected.project(weight))
    assert attached.masks.share == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5])
def test_a_resumed_run_ends_with_the_same_weights(cut: int) -> None:
    """Law 7, at every epoch of a run of two stages and some retraining."""
    method = ADMM.prune_first(BOTH, epochs=2, rhos=(0.1, 1.0))
    whole = network()
    optimizer = OPTIMISERS["sgd"](whole.parameters())
    with method.attach(whole, optimizer) as attached:
        train(whole, optimizer, attached, 6)

    first = network()
    optimizer = OPTIMISERS["sgd"](first.parameters())
    with method.attach(first, optimizer) as attached:
        train(first, optimizer, attached, cut)
        states = copy.deepcopy((first.state_dict(), optimizer.state_dict(), attached.state_dict()))
    assert all(isinstance(v, Tensor) for v in states[2].values())
    second = network(seed=9)
    second.load_state_dict(states[0])
    optimizer = OPTIMISERS["sgd"](second.parameters())
    with method.attach(second, optimizer, masks=Masks()) as attached:
        second.load_state_dict(states[0])
        optimizer.load_state_dict(states[1])
        attached.load_state_dict(states[2])
        train(second, optimizer, attached, 6 - cut)
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_a_tied_block_moves_by_the_mean_of_its_gradients() -> None:
    partition = Partition(Block(3, 1), (3, 2))
    weight = torch.tensor([[1.0, 4.0], [-1.0, 5.0], [1.0, 6.0]])
    held = Held(
        weight, BlockPattern(partition, torch.tensor([[[[UNIFY], [0]]]], dtype=torch.int8)), tied=True
    )
    gradient = torch.tensor([[3.0, 1.0], [0.0, 2.0], [6.0, 3.0]])
    held.gradient(gradient)
    assert gradient.tolist() == [[3.0, 1.0], [-3.0, 2.0], [3.0, 3.0]]
    weight -= gradient
    held.weight(weight)
    assert weight[:, 0].tolist() == [0.0, 0.0, 0.0]  # never below zero: the signs are fixed
    weight += torch.tensor([[2.0, 0.0], [-2.0, 0.0], [2.0, 0.0]])
    held.weight(weight)
    assert weight[:, 0].tolist() == [2.0, -2.0, 2.0]


def test_channels_last_weights_are_held_as_well() -> None:
    rng = torch.Generator().manual_seed(0)
    plain = torch.randn(8, 4, 3, 3, generator=rng)
    other = plain.clone().to(memory_format=torch.channels_last)
    partition = Partition(Block(4, 2), (8, 4, 3, 3))
    pattern = choose(partition, block_costs(partition, plain), 0.3, 0.4)
    gradient = torch.randn(8, 4, 3, 3, generator=rng)
    for weight in (plain, other):
        held = Held(weight, pattern, tied=True)
        g = gradient.clone().to(memory_format=torch.preserve_format)
        held.gradient(g)
        weight -= 0.1 * g
        held.weight(weight)
    assert torch.equal(plain, other)
    assert pattern.obeyed(other)


def test_bad_options_are_refused() -> None:
    for options in ({"epochs": -1}, {"every": 0}, {"rhos": ()}, {"rhos": (0.0,)}, {"tolerance": -1.0}):
        with pytest.raises(StructureError):
            ADMM(BOTH, **options)  # type: ignore[arg-type]
    with pytest.raises(StructureError, match="lead up"):
        ADMM(BOTH, stages=(Shares(0.6),))
    with pytest.raises(StructureError, match="shares of their own"):
        ADMM(MicroStructured(shares={"0": Shares(0.2)}), stages=(Shares(0.5),))
    with pytest.raises(TrainingError, match="shares of its structure"):
        ADMM(BOTH).prune(network(), Masks(), 0.5, [])
    with pytest.raises(StructureError, match="No weight"):
        ADMM(MicroStructured(Block(64, 64))).attach(network(), OPTIMISERS["sgd"](network().parameters()))
