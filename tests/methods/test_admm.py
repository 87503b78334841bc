"""ADMM towards blocks: steps against the equations, fixed blocks, ties, stages, and a resume that changes nothing."""

from __future__ import annotations

import copy
import csv
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.blocks import UNIFY, ZERO, Block, BlockPattern, Partition, Shares, block_costs, choose
from secateur.blocks.held import Held
from secateur.graph import trace
from secateur.ground.errors import CalibrationError, StructureError, TrainingError
from secateur.methods import MicroStructured
from secateur.methods.admm import ADMM, Residual
from secateur.methods.block_costs import Criterion, OutputError, WeightError
from secateur.statistics import collect, state_tensors
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


def residuals(attached: Any) -> list[Residual]:
    rows = attached.state_dict()["rule.residuals"].tolist()
    return [Residual(int(step), *rest) for step, *rest in rows]


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


def test_rhos_that_throw_the_choice_about_are_told() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    told = pytest.warns(UserWarning, match=r"only \d+% of the blocks .*\(rhos=\(0.001,\)")
    with ADMM(BOTH, epochs=6, rhos=(1e-3,)).attach(model, optimizer) as attached, told:
        train(model, optimizer, attached, 5)
    again = network()
    optimizer = torch.optim.SGD(again.parameters(), 1e-4)
    with ADMM(BOTH, epochs=6, every=4).attach(again, optimizer) as attached, warnings.catch_warnings():
        warnings.simplefilter("error")
        train(again, optimizer, attached, 5)
    assert residuals(attached)[-1].same > 0.9


def test_a_criterion_that_looks_at_data_chooses_in_its_metric() -> None:
    """The first blocks are those of the criterion; without data there are none, and a step says what is missing."""
    structure = MicroStructured(Block(4, 1), zero=0.5, skip=(), criterion=OutputError(repaired=False))
    model = network()
    optimizer = OPTIMISERS["sgd"](model.parameters())
    inputs = [x * torch.linspace(0.01, 3, 4) for x, _ in data()]
    with ADMM(structure, epochs=2).attach(model, optimizer) as attached:
        with pytest.raises(TrainingError, match=r"OutputError .* attached\.calibrate"):
            train(model, optimizer, attached, 1)
        with pytest.raises(CalibrationError, match="no batches"):
            attached.calibrate([])
        dense = copy.deepcopy(model)
        attached.calibrate(inputs)
        state = attached.state_dict()
        graph = trace(dense, inputs[0])
        partitions = structure.layers(dense).partitions
        nodes = [layer.node for layer in graph.layers]
        statistics = collect(graph, (), inputs, layers=nodes, patches=True)
        costs = structure.criterion(graph, partitions, state_tensors(graph.program), statistics)
        for name, expected in structure.patterns(dense, partitions, costs).items():
            assert torch.equal(state[f"rule.states.{name}"], expected.states)
        train(model, optimizer, attached, 3)
    assert residuals(attached)[0].magnitude < 1
    assert all(pattern_of(model, name, structure).share(ZERO) == 0.5 for name in partitions)


def test_short_epochs_are_enough_for_the_weights_to_follow() -> None:
    """After an epoch of four steps the pull is that of four steps, not of fifty."""
    model = network()
    optimizer = OPTIMISERS["sgd"](model.parameters())
    with ADMM(BOTH, epochs=5, every=50).attach(model, optimizer) as attached:
        train(model, optimizer, attached, 4)
    first, second, *_ = residuals(attached)
    assert first.primal > 0.3
    assert 1 / (1 + second.rho) ** 4 == pytest.approx(0.3)
    assert second.primal < 0.3


def test_a_converged_stage_ends_early() -> None:
    model = network()
    optimizer = OPTIMISERS["sgd"](model.parameters())
    with ADMM(BOTH, epochs=50, tolerance=10.0).attach(model, optimizer) as attached:
        train(model, optimizer, attached, 2)
    assert len(residuals(attached)) == 1
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


def test_gradually_each_stage_takes_the_same_part_of_what_is_left() -> None:
    structure = MicroStructured(Block(4, 1), zero=0.875, unify=0.05, skip=())
    method = ADMM.gradually(structure, 3, epochs=1, every=2)
    assert method.stages == (Shares(0.5), Shares(0.75))
    model = network()
    optimizer = OPTIMISERS["sgd"](model.parameters())
    with method.attach(model, optimizer) as attached:
        for zero in (0.5, 0.75, 0.875):
            train(model, optimizer, attached, 1)
            assert attached.masks.share == pytest.approx(1 - zero, abs=0.02)
    assert ADMM.gradually(structure, 1).stages == ()
    for wrong in ((structure, 0), (MicroStructured(zero=1.0), 3)):
        with pytest.raises(StructureError, match="at least one stage"):
            ADMM.gradually(*wrong)


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
@pytest.mark.parametrize(
    "method",
    [
        ADMM.prune_first(BOTH, epochs=2, rhos=(0.1, 1.0)),
        ADMM.prune_first(BOTH, epochs=2, every=3, residual=0.1),
        ADMM.prune_first(replace(BOTH, criterion=OutputError()), epochs=2),
    ],
    ids=["rhos", "pulled", "in the metric of the outputs"],
)
def test_a_resumed_run_ends_with_the_same_weights(cut: int, method: ADMM) -> None:
    """Law 7, at every epoch of a run of two stages and some retraining; data are looked at once, at the start."""
    whole = network()
    optimizer = OPTIMISERS["sgd"](whole.parameters())
    with method.attach(whole, optimizer) as attached:
        attached.calibrate(data())
        train(whole, optimizer, attached, 6)

    first = network()
    optimizer = OPTIMISERS["sgd"](first.parameters())
    with method.attach(first, optimizer) as attached:
        attached.calibrate(data())
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


@pytest.mark.parametrize("criterion", [WeightError(), OutputError()])
def test_the_log_and_the_report_say_how_blocks_were_found(tmp_path: Path, criterion: Criterion) -> None:
    method = ADMM(replace(BOTH, criterion=criterion), epochs=1)
    kept = sc.Checkpoints(tmp_path)
    result = sc.prune(
        network(), data()[0][0][:2], method=method, training=sc.Training(data(), epochs=2, checkpoints=kept),
        progress=False,
    )  # fmt: skip
    assert result.report.structure is not None
    found = result.report.structure.approach
    assert found is not None
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert [float(row[k]) for k in ("primal", "dual", "same", "magnitude")] == [
            found.primal, found.dual, found.same, found.magnitude
        ]  # fmt: skip
    assert 0 < found.primal < 1
    assert (found.magnitude == 1) == (criterion == WeightError())
    assert "blocks kept as by magnitudes" in str(result.report)
    assert found.advice in result.report.to_html(tmp_path / "report.html").read_text("utf-8")


def test_without_epochs_a_criterion_chooses_at_once_when_it_has_seen_data() -> None:
    structure = replace(BOTH, unify=0.0, criterion=OutputError())
    result = sc.prune(
        network(), data()[0][0][:2], method=ADMM(structure, epochs=0), training=sc.Training(data()), progress=False
    )  # fmt: skip
    assert result.masks is not None
    assert all(pattern_of(result.model, name, structure).share(ZERO) == 0.5 for name in result.plan.patterns)


def test_bad_options_are_refused() -> None:
    for options in (
        {"epochs": -1},
        {"every": 0},
        {"residual": 1.0},
        {"residual": 0.0},
        {"rhos": (0.0,)},
        {"tolerance": -1.0},
    ):
        with pytest.raises(StructureError):
            ADMM(BOTH, **options)
    with pytest.raises(StructureError, match="lead up"):
        ADMM(BOTH, stages=(Shares(0.6),))
    with pytest.raises(StructureError, match="shares of their own"):
        ADMM(MicroStructured(shares={"0": Shares(0.2)}), stages=(Shares(0.5),))
    with pytest.raises(TrainingError, match="shares of its structure"):
        ADMM(BOTH).prune(network(), Masks(), 0.5, [])
    with pytest.raises(StructureError, match="No weight"):
        ADMM(MicroStructured(Block(64, 64))).attach(network(), OPTIMISERS["sgd"](network().parameters()))
