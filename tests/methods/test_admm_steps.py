"""ADMM towards blocks: its steps against the equations, and the blocks that it chooses."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from admm_log import residuals
from torch import Tensor, nn

from secateur.blocks import Block, Partition, block_costs, choose
from secateur.methods import MicroStructured
from secateur.methods.admm import ADMM
from secateur.methods.block_costs import OutputError, WeightError


class ByHand:
    """W, Z and U of one weight in float64, with 2x1 blocks of which a share becomes zero."""

    partition = Partition(Block(2, 1), (4, 3))

    def __init__(self, weight: Tensor, zero: float) -> None:
        self.w, self.u, self.zero = weight.detach().double(), torch.zeros(4, 3, dtype=torch.float64), zero
        self.project()

    def project(self) -> None:
        point = self.w + self.u
        chosen = choose(self.partition, block_costs(self.partition, point), self.zero)
        self.z, self.changed = chosen.project(point), (~chosen.mask()).double()

    def away(self) -> Tensor:
        return (self.w - self.z + self.u) * self.changed

    def primal(self) -> float:
        return float(((self.w - self.z) * self.changed).norm() / self.w.norm())

    def renew(self) -> None:
        self.project()
        self.u = (self.w + self.u - self.z) * self.changed


def regression() -> tuple[nn.Linear, Callable[[], None], Callable[[Tensor], Tensor]]:
    """A linear layer, what makes its gradients, and the gradient by hand."""
    torch.manual_seed(0)
    model = nn.Linear(3, 4, bias=False)
    x, y = torch.randn(5, 3), torch.randn(5, 4)

    def backward() -> None:
        model.zero_grad()
        ((model(x) - y) ** 2).sum().backward()

    return model, backward, lambda w: 2 * (x.double() @ w.T - y.double()).T @ x.double()


def rigid(zero: float) -> MicroStructured:
    return MicroStructured(Block(2, 1), zero, skip=())


@pytest.mark.filterwarnings("ignore:ADMM")  # so few and small steps do not hold the choice
def test_with_given_rhos_the_steps_are_those_of_the_equations() -> None:
    """One epoch of one step, by hand: W, then Z = P(W + U), then U; nothing is asked of blocks that are kept."""
    model, backward, slope = regression()
    hand = ByHand(model.weight, 0.5)
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    with ADMM(rigid(0.5), epochs=9, rhos=(0.5, 2.0), tolerance=0).attach(model, optimizer) as attached:
        for epoch in range(8):
            rho = 0.5 if epoch < 5 else 2.0
            if epoch == 5:
                hand.u = hand.u * 0.5 / 2.0  # y = rho u stays
            backward()
            optimizer.step()
            attached.epoch_end()
            hand.w = hand.w - 0.02 * (slope(hand.w) + rho * hand.away())
            primal = hand.primal()
            hand.renew()
            torch.testing.assert_close(model.weight.double(), hand.w, rtol=1e-4, atol=1e-5)
            assert residuals(attached)[-1].primal == pytest.approx(primal, rel=1e-4)
    assert [r.rho for r in residuals(attached)] == [0.5] * 5 + [2.0] * 3
    assert [r.step for r in residuals(attached)] == list(range(1, 9))


def test_without_rhos_a_proximal_step_follows_each_step_and_z_waits_for_the_weights() -> None:
    """By hand: each step ends at the penalty's nearest point; Z moves below the residual, else the pull doubles."""
    model, backward, slope = regression()
    hand = ByHand(model.weight, 0.8)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    method = ADMM(rigid(0.8), epochs=30, every=2, residual=0.3, tolerance=0)
    strength, waited, moved = 0.3 ** (-1 / 2) - 1, 0, 0
    with method.attach(model, optimizer) as attached:
        for step in range(1, 41):
            backward()
            optimizer.step()
            hand.w = hand.w - 0.01 * slope(hand.w)
            hand.w = hand.w - strength / (1 + strength) * hand.away()
            if step % 2 == 0:
                found = residuals(attached)[-1]
                assert found.step == step
                assert found.rho == pytest.approx(strength)
                assert found.primal == pytest.approx(hand.primal(), rel=1e-3)
                if hand.primal() < 0.3:
                    hand.renew()
                    moved += 1
                else:
                    strength, hand.u = 2 * strength, hand.u / 2
                    waited += 1
                    assert (found.dual, found.same) == (0, 1)
            torch.testing.assert_close(model.weight.double(), hand.w, rtol=1e-3, atol=1e-4)
            if step % 4 == 0:
                attached.epoch_end()  # the copies were renewed in this epoch: it adds no renewal
    assert waited > 0
    assert moved > 0
    assert len(residuals(attached)) == 20


@pytest.mark.parametrize("rhos", [(), (1.0, 10.0)])
@pytest.mark.parametrize("shares", [(0.5, 0.0), (0.5, 0.25)])
def test_on_a_convex_loss_it_converges(shares: tuple[float, float], rhos: tuple[float, ...]) -> None:
    """With many steps before each renewal and a penalty beyond the loss's curvature, the two copies meet."""
    torch.manual_seed(3)
    model = nn.Linear(12, 16, bias=False)
    x, y = torch.randn(64, 12), torch.randn(64, 16)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    structure = MicroStructured(Block(4, 1), *shares, skip=())
    with ADMM(structure, epochs=30, rhos=rhos, every=60, tolerance=0).attach(model, optimizer) as attached:
        for _ in range(29):
            for _ in range(60):
                optimizer.zero_grad()
                (((model(x) - y) ** 2).sum() / 64).backward()
                optimizer.step()
            attached.epoch_end()
    assert len(residuals(attached)) == 29
    last = residuals(attached)[-1]
    assert max(last.primal, last.dual) < (0.01 if rhos else 0.05)
    assert last.same == 1


def test_in_the_metric_of_the_outputs_better_blocks_are_found_than_by_magnitudes() -> None:
    """Blocks of large weights that the outputs do not need go; those of small weights that they need stay."""
    torch.manual_seed(0)
    model = nn.Linear(8, 8, bias=False)
    x = torch.randn(256, 8) * torch.tensor([0.02] * 4 + [4.0] * 4)  # four inputs are weak, the others strong
    with torch.no_grad():
        model.weight.copy_(torch.randn(8, 8).sign() * torch.tensor([1.0] * 4 + [0.4] * 4))
        y = x @ model.weight.T
    lost = {}
    for criterion in (WeightError(), OutputError()):
        net = copy.deepcopy(model)
        structure = MicroStructured(Block(8, 1), zero=0.5, skip=(), criterion=criterion)
        optimizer = torch.optim.SGD(net.parameters(), 0.02)
        with ADMM(structure, epochs=2, every=5, tolerance=0).attach(net, optimizer) as attached:
            attached.calibrate([x])
            for _ in range(3):
                for _ in range(10):
                    optimizer.zero_grad()
                    ((net(x) - y) ** 2).mean().backward()
                    optimizer.step()
                attached.epoch_end()
        lost[criterion] = float(((net(x) - y) ** 2).mean().detach())
    assert lost[OutputError()] < 0.01 * lost[WeightError()]
    assert residuals(attached)[-1].magnitude == 0
