"""Distillation: closer on held-out samples or not at all, and nothing but what pruning touched."""

import time
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from models import SMALL, random_selection
from torch import Tensor, nn

import secateur as sc
from secateur.graph import Graph, Kept, trace
from secateur.ground.errors import CalibrationError, CheckpointError
from secateur.ground.progress import silenced
from secateur.recovery import Distill, imitation
from secateur.recovery import distill as distilling
from secateur.recovery.descent import Descent
from secateur.recovery.distance import held_out_distances
from secateur.recovery.jobs import masked
from secateur.recovery.samples import minibatches, pooled
from secateur.statistics import Calibration, Forward, state_tensors
from secateur.surgery import apply

NAMES = ["perceptron", "residual", "depthwise", "dense", "grouped", "flattened", "mixer"]


@cache
def pruned(name: str, seed: int = 0) -> tuple[nn.Module, Graph, Kept, dict[str, Tensor], Tensor]:
    case = next(case for case in SMALL if case.name == name)
    model, x = case.model(), case.inputs(32, seed=3)
    graph = trace(model, x[:2])
    kept = random_selection(graph, 0.3, seed)
    return model, graph, kept, masked(graph, state_tensors(graph.program), kept), x


def distance(graph: Graph, tensors: dict[str, Tensor], x: Tensor) -> float:
    dense, pruned = (Forward(graph.program, t) for t in (state_tensors(graph.program), tensors))
    return held_out_distances(dense, [pruned], Calibration(x.split(8), graph.program))[0]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_of_held_out_samples_come_closer(name: str) -> None:
    _, graph, kept, before, x = pruned(name)
    after = Distill(steps=40, lr=0.01, batch=8)(graph, kept, before, x.split(8))
    assert distance(graph, after, x) < 0.8 * distance(graph, before, x)
    again = masked(graph, after, kept)
    assert all(torch.equal(value, again[key]) for key, value in after.items())  # what is gone stays gone


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seed_gives_the_same_tensors(seed: int) -> None:
    _, graph, kept, before, x = pruned("residual")
    first, second, other = (
        Distill(steps=5, batch=4)(graph, kept, before, x.split(8), s) for s in (seed, seed, seed + 1)
    )
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert any(not torch.equal(value, other[key]) for key, value in first.items())


@pytest.mark.parametrize(
    ("distill", "why"),
    [
        (Distill(steps=20, lr=1e4), r"came not 2% closer.*smaller lr than 10000"),
        (Distill(seconds=0.0), r"seconds=0 were over before its first step"),
    ],
    ids=["worse", "no time"],
)
def test_what_does_not_help_is_not_returned(distill: Distill, why: str) -> None:
    _, graph, kept, before, x = pruned("residual")
    with pytest.warns(UserWarning, match=f"changed nothing, because .*{why}"):
        after = distill(graph, kept, before, x.split(8))
    assert all(value is before[key] for key, value in after.items())


def test_only_what_pruning_touched_learns() -> None:
    _, graph, _, _, x = pruned("residual")
    kept = {"a1": (0, 2, 3)}
    before = masked(graph, state_tensors(graph.program), kept)
    after = Distill(steps=10, lr=0.01)(graph, kept, before, x.split(8))
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed == {"a1.weight", "a1.bias", "b1.weight", "b1.bias"}


def test_nothing_pruned_is_nothing_to_do() -> None:
    _, graph, _, _, x = pruned("residual")
    dense = state_tensors(graph.program)
    assert Distill()(graph, {}, dense, x.split(8)) == dense


@pytest.mark.parametrize("memory", [1 << 30, 0], ids=["pooled", "batch by batch"])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_held_out_samples_are_never_fitted_and_all_others_are(size: int, memory: int) -> None:
    _, graph, _, _, x = pruned("perceptron")
    batches = Calibration(x.split(8), graph.program)
    allowed = torch.cat([flat[0][~held] for flat, held in batches.held_out()])
    assert 0 < len(allowed) < len(x)
    pool = pooled(batches, memory)
    assert (pool is None) == (memory == 0)
    drawn = minibatches(batches, pool, size, 0)
    seen: dict[tuple[float, ...], int] = {}
    for (part,), _ in islice(drawn, 3 * len(allowed)):
        assert 1 <= len(part) <= 1.5 * size
        for row in part.tolist():
            seen[tuple(row)] = seen.get(tuple(row), 0) + 1
    assert set(seen) == {tuple(row) for row in allowed.tolist()}


def test_a_pool_is_gone_through_before_any_sample_comes_again() -> None:
    _, graph, _, _, x = pruned("perceptron")
    batches = Calibration(x.split(8), graph.program)
    allowed = torch.cat([flat[0][~held] for flat, held in batches.held_out()])
    drawn = minibatches(batches, pooled(batches, 1 << 30), 2, 0)
    for _ in range(3):
        found = torch.cat([part for (part,), _ in islice(drawn, len(allowed) // 2)])
        assert len(found.unique(dim=0)) == len(found) == len(allowed) // 2 * 2


@pytest.mark.parametrize("memory", [1 << 30, 0])
def test_a_resumed_run_ends_as_one_that_was_not_killed(tmp_path: Path, memory: int) -> None:
    _, graph, kept, before, x = pruned("residual")
    options = Distill(steps=40, lr=0.01, batch=8, augment=noisy, memory=memory)
    whole = options(graph, kept, before, x.split(8))
    drawn = 0

    def killed(x: Tensor) -> Tensor:
        nonlocal drawn
        drawn += 1
        if drawn > 27:
            raise KeyboardInterrupt
        return noisy(x)

    killed.__module__, killed.__qualname__ = noisy.__module__, noisy.__qualname__
    kept_at = sc.Checkpoints(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        replace(options, augment=killed, checkpoints=kept_at)(graph, kept, before, x.split(8))
    with pytest.raises(CheckpointError, match="resume=True"):
        replace(options, checkpoints=kept_at)(graph, kept, before, x.split(8))
    again = sc.Checkpoints(tmp_path, resume=True)
    with pytest.raises(CheckpointError, match=r"lr"):
        replace(options, lr=0.02, checkpoints=again)(graph, kept, before, x.split(8))
    for _ in range(2):  # what has come to its end ends at once
        resumed = replace(options, checkpoints=again)(graph, kept, before, x.split(8))
        assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


@pytest.mark.parametrize("name", ["perceptron", "residual", "flattened"])
def test_without_augmentation_the_dense_network_runs_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, graph, kept, before, x = pruned(name)
    runs = 0

    def counted(*args: Any) -> Any:
        nonlocal runs
        runs += 1
        return imitation.wishes(*args)

    options = Distill(steps=30, lr=0.003, batch=8, augment=None)
    once = options(graph, kept, before, x.split(8))
    monkeypatch.setattr(distilling, "wishes", counted)
    options(graph, kept, before, x.split(8))
    assert runs == 0
    monkeypatch.setattr(distilling, "remembered", lambda *args: None)
    anew = options(graph, kept, before, x.split(8))
    assert 15 < runs <= 30  # it may end early
    for key, value in anew.items():
        torch.testing.assert_close(once[key], value, rtol=1e-2, atol=1e-3)


def noisy(x: Tensor) -> Tensor:
    return x + 0.1 * torch.randn_like(x)


def test_augmentation_draws_from_a_seed_and_leaves_the_generator_alone() -> None:
    _, graph, kept, before, x = pruned("residual")
    options = Distill(steps=5, batch=8, augment=noisy)
    state = torch.get_rng_state()
    first = options(graph, kept, before, x.split(8))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    second = options(graph, kept, before, x.split(8))
    plain = replace(options, augment=None)(graph, kept, before, x.split(8))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert any(not torch.equal(value, plain[key]) for key, value in first.items())


@pytest.mark.parametrize(
    ("augment", "why"),
    [
        (lambda x: x[:, :-1], r"makes \(8, \d+, .*of input 0, which is \(8,"),
        (lambda x: x.double(), "float64.*float32"),
        (lambda x: (x, x), "returns 2 inputs of 1"),
        (lambda x: x / 0, "not finite"),
        (lambda x: None, "a NoneType"),
    ],
    ids=["shape", "dtype", "number", "values", "nothing"],
)
def test_an_augmentation_that_does_not_fit_is_refused(augment: Any, why: str) -> None:
    _, graph, kept, before, x = pruned("residual")
    with pytest.raises(CalibrationError, match=why):
        Distill(steps=2, batch=8, augment=augment)(graph, kept, before, x.split(8))


@pytest.mark.parametrize(
    "options",
    [{"steps": 0}, {"batch": 0}, {"lr": 0}, {"lr": float("nan")}, {"seconds": -1}, {"augment": 3}],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Distill(**options)


def test_the_clock_ends_the_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    _, graph, kept, before, x = pruned("residual")
    now = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    rates: list[float] = []
    step = Descent.step

    def watched(self: Descent, gradients: Any, shares: float, rate: float) -> None:
        rates.append(rate)
        step(self, gradients, shares, rate)

    monkeypatch.setattr(Descent, "step", watched)
    with silenced():  # progress looks at the clock as well
        Distill(steps=1000, seconds=20, batch=8)(graph, kept, before, x.split(8))
    assert 15 <= len(rates) <= 20
    assert max(rates) == pytest.approx(1e-3, rel=0.05)
    assert rates[0] < 1e-4
    assert rates[-1] < 1e-4


def test_a_fixed_batch_size_is_refused() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x))).reshape(4, 2)

    x = torch.randn(4, 4)
    graph = trace(Fixed().eval(), x)
    with pytest.raises(CalibrationError, match="batch size"):
        Distill()(graph, {"a": (0, 1)}, state_tensors(graph.program), [x])


def test_the_artefact_and_the_report_have_it(tmp_path: Path) -> None:
    model, _, _, _, x = pruned("flattened")
    scores = iter((0.9, 0.1, 0.8))  # in the order of a network's life
    method, budget = sc.Random(), sc.Budget(macs=0.5)
    shared: dict[str, Any] = {
        "method": method,
        "budget": budget,
        "calibration": x.split(8),
        "progress": False,
    }
    distill = sc.Distill(steps=30, lr=0.01)
    result = sc.prune(model, x[:2], distill=distill, evaluate=lambda net: next(scores), **shared)
    plain = sc.prune(model, x[:2], **shared)
    accuracy = result.report.scores
    assert accuracy is not None
    assert (accuracy.dense, accuracy.pruned, accuracy.distilled) == (0.9, 0.1, 0.8)
    assert accuracy.recovered is None
    assert "distilled" in str(result.report)
    assert result.report.seconds["distillation"] > 0
    assert result.recipe["distill"]["steps"] == 30
    loaded = sc.load(
        result.save(tmp_path / "half"), next(case.make for case in SMALL if case.name == "flattened")
    )
    with torch.no_grad():
        dense, found = model(x), result.model(x)
        assert torch.equal(loaded(x), found)
        assert torch.equal(apply(model, result.plan)(x), found)
        assert ((found - dense) ** 2).mean() < ((plain.model(x) - dense) ** 2).mean()


def test_the_traced_program_and_the_model_agree() -> None:
    """Distillation runs the program in full shapes; the smaller model computes the same."""
    model, _, _, _, x = pruned("residual")
    seen: list[dict[str, Tensor]] = []

    class Watched(Distill):
        def __call__(self, *args: object, **options: object) -> dict[str, Tensor]:
            seen.append(super().__call__(*args, **options))  # type: ignore[arg-type]
            return seen[-1]

    result = sc.prune(
        model,
        x[:2],
        method=sc.Magnitude(),
        budget=sc.Budget(macs=0.6),
        calibration=x.split(8),
        distill=Watched(steps=10, lr=0.01),
        progress=False,
    )
    graph = trace(model, x[:2])
    (found,) = Forward(graph.program, seen[0]).run([x], {}, {}, whole=True) or []
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), found, rtol=1e-4, atol=1e-5)
