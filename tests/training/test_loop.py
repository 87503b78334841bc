"""The loop at both paces: budgets, bounds, the chosen checkpoint, early ends, and what is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training_problems import Smallest, accuracy, data, loader, network, options

import secateur as sc
from secateur.ground.errors import BoundError, CheckpointError, DataError, TrainingError
from secateur.training import Masks, train


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return train(network(), Smallest(), options(epochs=8), share=1.0).model


def test_rounds_take_the_same_part_each_time(trained: nn.Module) -> None:
    found = train(trained, Smallest(), options(iterations=3), share=0.125)
    shares = [row.share for row in found.rows]
    assert shares[1::2] == pytest.approx([0.5, 0.25, 0.125], abs=0.01)
    for name, parameter in found.model.named_parameters():
        assert not parameter[~found.masks[name]].any()
        assert parameter[found.masks[name]].all()


def test_a_run_goes_on_from_the_masks_of_another(trained: nn.Module) -> None:
    first = train(trained, Smallest(), options(iterations=2), share=0.25)
    second = train(first.model, Smallest(), options(iterations=2), share=0.0625, masks=first.masks)
    assert [row.share for row in second.rows[1::2]] == pytest.approx([0.125, 0.0625], abs=0.01)
    assert (second.masks & first.masks) == second.masks
    kept = train(first.model, sc.methods.WeightDecay(gamma=0.0), options(), share=1.0, masks=first.masks)
    assert kept.masks == first.masks
    assert all(not p[~first.masks[n]].any() for n, p in kept.model.named_parameters())


@pytest.mark.parametrize(
    "options", [{}, {"above": 1.0, "drop": 0.1}, {"above": float("-inf")}, {"drop": float("nan")}]
)
def test_a_bound_is_one_finite_number(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"either a value|finite number"):
        sc.Bound(**options)


def test_masks_of_another_model_are_refused(trained: nn.Module) -> None:
    with pytest.raises(TrainingError, match="no parameter 'other'"):
        train(trained, Smallest(), options(), masks=Masks({"other": torch.ones(2, dtype=torch.bool)}))
    name = next(iter(Masks.full(trained)))
    with pytest.raises(TrainingError, match=f"{name!r} has shape"):
        train(trained, Smallest(), options(), masks=Masks({name: torch.ones(2, dtype=torch.bool)}))


def test_the_given_model_and_the_callers_random_numbers_stay(trained: nn.Module) -> None:
    before = {n: t.clone() for n, t in trained.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(trained, Smallest(), options(), share=0.5)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(t, before[n]) for n, t in trained.state_dict().items())
    assert not trained.training


@pytest.mark.parametrize("changes", [{"iterations": 2}, {"finetune": 1}])
def test_a_seed_decides_everything(trained: nn.Module, changes: dict[str, Any]) -> None:
    results = [train(trained, Smallest(), options(**changes), share=0.3, seed=s).model for s in (1, 1, 2)]
    states = [torch.cat([p.flatten() for p in model.parameters()]) for model in results]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_the_best_epoch_of_a_round_goes_on(trained: nn.Module) -> None:
    """A measure that likes the second of three epochs best."""
    scores = iter([0.5, 0.1, 0.9, 0.2])
    seen: list[Tensor] = []

    def measure(model: nn.Module) -> float:
        seen.append(next(model.parameters()).detach().clone())
        return next(scores)

    found = train(trained, Smallest(), options(epochs=3, validation=sc.Validation(measure)), share=0.5)
    assert found.dense == 0.5
    assert found.metric == 0.9
    assert torch.equal(next(found.model.parameters()), seen[2])


def test_the_sparsest_above_the_bound(trained: nn.Module) -> None:
    bound = sc.Validation(accuracy, sc.Bound(0.78))
    found = train(trained, Smallest(), options(epochs=4, iterations=8, validation=bound))
    assert found.metric is not None
    assert found.metric > 0.78
    assert found.metric == accuracy(found.model)
    assert found.masks.share < 0.6
    last = max(row.round for row in found.rows)
    assert last < 8, "rounds end where the bound is missed"
    missed = [row.metric for row in found.rows if row.round == last]
    assert max(m for m in missed if m is not None) <= 0.78
    assert found.masks.share == next(row.share for row in found.rows if row.round == last - 1)


def test_crops_wait_for_the_bound(trained: nn.Module) -> None:
    bound = sc.Validation(accuracy, sc.Bound(drop=0.1))
    run = options(epochs=15, validation=bound, crops=sc.training.Crops(every=4, fraction=0.2), finetune=1)
    found = train(trained, Smallest(), run)
    assert found.dense is not None
    assert found.metric is not None
    assert found.metric > found.dense - 0.1
    shares = [1.0, *(row.share for row in found.rows if row.round == 1)]
    judged = [row for row in found.rows if row.round == 1]
    assert len(judged) == 15 * 8 / 4
    for row, after in zip(judged, shares[2:], strict=False):
        assert row.metric is not None
        cropped = row.metric > found.dense - 0.1
        assert after == pytest.approx(row.share * 0.8, abs=0.005) if cropped else after == row.share
    above = [row.share for row in judged if row.metric is not None and row.metric > found.dense - 0.1]
    assert found.masks.share == min(above)


def test_crops_stop_at_the_budget(trained: nn.Module) -> None:
    run = options(
        epochs=12,
        validation=sc.Validation(accuracy, sc.Bound(0.1)),
        crops=sc.training.Crops(every=2, fraction=0.3),
    )
    found = train(trained, Smallest(), run, share=0.25)
    assert found.masks.share == pytest.approx(0.25, abs=0.005)
    assert found.rows[-1].share == found.masks.share


def test_a_bound_that_is_never_met_says_how_close_it_was(trained: nn.Module) -> None:
    unmet = sc.Validation(accuracy, sc.Bound(1.5))
    with pytest.raises(
        BoundError, match=r"above the bound 1\.5: the best one had 0\.\d+ with 49\.9% .* dense"
    ):
        train(trained, Smallest(), options(validation=unmet, iterations=3))
    with pytest.raises(BoundError, match=r"the best one had"):
        train(trained, Smallest(), options(validation=unmet, crops=sc.training.Crops(every=4), finetune=1))


def test_patience_ends_rounds_early(trained: nn.Module) -> None:
    measure = sc.Validation(lambda model: 0.5, patience=2)
    found = train(trained, Smallest(), options(epochs=9, iterations=2, validation=measure), share=0.5)
    assert [row.epoch for row in found.rows] == [0, 1, 2, 3, 1, 2, 3]
    measure = sc.Validation(lambda model: 0.5, sc.Bound(0.9), patience=2)
    with pytest.raises(BoundError):
        train(trained, Smallest(), options(epochs=9, validation=measure, crops=sc.training.Crops(every=3)))


def test_rewinding_trains_the_survivors_from_the_start(trained: nn.Module) -> None:
    initial = network(3).state_dict()
    still = partial(torch.optim.SGD, lr=0.0)
    found = train(trained, Smallest(), options(rewind=initial, optimizer=still, iterations=2), share=0.3)
    for name, parameter in found.model.named_parameters():
        assert torch.equal(parameter, initial[name] * found.masks[name])
    expected = Smallest().prune(trained, Masks.full(trained), 0.3**0.5, ())
    assert found.masks <= expected, "the first scores are those of the trained network"


def test_a_stream_without_a_length_and_weights_of_another_model(trained: nn.Module) -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([(x, y) for x, y in zip(*data(), strict=True)])

    streamed = torch.utils.data.DataLoader(Stream(), 32)
    assert train(trained, Smallest(), options(loader=streamed), share=0.5).rows[-1].step == 16
    rewind = {n: t for n, t in trained.state_dict().items() if n != "0.weight"}
    with pytest.raises(TrainingError, match=r"only one of them has '0\.weight'"):
        train(trained, Smallest(), options(rewind=rewind), share=0.5)
    with pytest.raises(TrainingError, match=r"'0\.bias' has shape \(2,\), not \(24,\)"):
        train(
            trained, Smallest(), options(rewind=trained.state_dict() | {"0.bias": torch.zeros(2)}), share=0.5
        )


def test_a_schedule_reaches_the_optimiser(trained: nn.Module) -> None:
    rates: list[float] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    steps = sc.training.MultiStep((1.5, 2), factor=0.1)
    batches = list(loader())
    run = options(loader=batches, epochs=3, schedule=steps, optimizer=partial(Watched, lr=1.0))
    train(trained, Smallest(), run, share=0.9)
    assert rates == pytest.approx([1.0] * 12 + [0.1] * 4 + [0.01] * 8)


def test_a_teacher_pulls_the_network_towards_it(trained: nn.Module) -> None:
    x, _ = data(64, seed=1)

    def distance(weight: float) -> float:
        teacher = sc.Teacher(trained, temperature=1.0, weight=weight)
        wrong = [(x, (y + 1) % 3) for x, y in loader()]
        model = train(trained, Smallest(), options(loader=wrong, teacher=teacher, epochs=4), share=0.6).model
        with torch.no_grad():
            return float(F.mse_loss(model(x).softmax(1), trained(x).softmax(1)))

    assert distance(1.0) < distance(0.5) < distance(0.0)
    assert not trained.training


def test_bf16_runs_and_stays_close(trained: nn.Module) -> None:
    seen: list[torch.dtype] = []

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        seen.append(outputs.dtype)
        return F.cross_entropy(outputs, labels)

    found = [train(trained, Smallest(), options(bf16=b, loss=loss), share=0.5) for b in (True, False)]
    assert set(seen) == {torch.float32}
    close, exact = (torch.cat([p.flatten() for p in f.model.parameters()]) for f in found)
    assert not torch.equal(close, exact)
    assert {p.dtype for p in found[0].model.parameters()} == {torch.float32}


def test_accumulated_batches_are_one_large_batch(trained: nn.Module) -> None:
    """In float64 and without BatchNorm and dropout; the last group of an epoch is shorter."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 3)).double()
    small = [(x.double(), y) for x, y in loader(32)]  # eight
    large = [
        (torch.cat([x for x, _ in g]), torch.cat([y for _, y in g]))
        for g in (small[:3], small[3:6], small[6:])
    ]
    found = [
        train(
            net, Smallest(), options(loader=batches, accumulate=k, schedule=sc.training.Constant()), share=0.5
        )
        for batches, k in ((small, 3), (large, 1))
    ]
    for a, b in zip(*(f.model.parameters() for f in found), strict=True):
        torch.testing.assert_close(a, b)
    assert [row.step for row in found[0].rows] == [3, 6]
    assert found[0].rows[-1].loss == pytest.approx(found[1].rows[-1].loss)


@pytest.mark.parametrize("step", [1, 5])
def test_a_loss_that_is_not_finite_stops_the_run(trained: nn.Module, step: int, tmp_path: Path) -> None:
    count = 0

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return F.cross_entropy(outputs, labels) * (float("nan") if count == step else 1)

    kept = sc.Checkpoints(tmp_path, every=2)
    with pytest.raises(TrainingError, match=f"loss is nan at step {step} .*checkpoint"):
        train(trained, Smallest(), options(loss=loss, checkpoints=kept), share=0.5)
    assert (tmp_path / "checkpoint.safetensors").exists() == (step > 2)


def test_gradients_and_metrics_that_are_not_finite_stop_the_run(trained: nn.Module) -> None:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs - outputs).sqrt().sum()  # 0, with an infinite slope

    with pytest.raises(TrainingError, match="gradient of"):
        train(trained, Smallest(), options(loss=loss), share=0.5)
    with pytest.raises(TrainingError, match="metric is nan"):
        train(trained, Smallest(), options(validation=sc.Validation(lambda m: float("nan"))), share=0.5)


@pytest.mark.parametrize("batches", [[], [torch.zeros(4, 8)], iter([data(8)])])
def test_bad_loaders(trained: nn.Module, batches: Any) -> None:
    with pytest.raises(DataError):
        train(trained, Smallest(), options(loader=batches), share=0.5)


def test_the_loaders_randomness_is_the_runs(trained: nn.Module) -> None:
    """A sampler with a generator of its own makes no difference between two runs, and comes back as it was."""
    shuffled = loader()
    own = torch.Generator().manual_seed(4)
    shuffled = torch.utils.data.DataLoader(shuffled.dataset, 32, shuffle=True, generator=own)
    before = own.get_state()
    states = [
        torch.cat(
            [p.flatten() for p in train(trained, Smallest(), options(loader=shuffled)).model.parameters()]
        )
        for _ in range(2)
    ]
    assert torch.equal(*states)
    assert torch.equal(own.get_state(), before)


def test_checkpoints_are_not_overwritten_by_accident(trained: nn.Module, tmp_path: Path) -> None:
    train(trained, Smallest(), options(checkpoints=sc.Checkpoints(tmp_path)), share=0.5)
    with pytest.raises(CheckpointError, match="resume=True"):
        train(trained, Smallest(), options(checkpoints=sc.Checkpoints(tmp_path)), share=0.5)
