"""Distillation: closer on held-out samples or not at all, and nothing but what pruning touched."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from models import SMALL, random_selection
from torch import Tensor, nn

import secateur as sc
from secateur.graph import Graph, Kept, trace
from secateur.ground.errors import CalibrationError
from secateur.recovery import Distill
from secateur.recovery.distance import held_out_distances
from secateur.recovery.distill import _minibatches
from secateur.recovery.jobs import masked
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
    return held_out_distances(graph, [tensors], Calibration(x.split(8), graph.program))[0]


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
    "distill", [Distill(steps=20, lr=100.0), Distill(seconds=0.0)], ids=["worse", "no time"]
)
def test_what_does_not_help_is_not_returned(distill: Distill) -> None:
    _, graph, kept, before, x = pruned("residual")
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


@pytest.mark.parametrize("size", [1, 3, 100])
def test_held_out_samples_are_never_fitted_and_all_others_are(size: int) -> None:
    _, graph, _, _, x = pruned("perceptron")
    batches = Calibration(x.split(8), graph.program)
    allowed = torch.cat([flat[0][~held] for flat, held in batches.held_out()])
    drawn = []
    for (part,) in _minibatches(batches, size, torch.Generator().manual_seed(0)):
        assert 1 <= len(part) <= size
        drawn += [part]
        if sum(map(len, drawn)) == len(allowed):
            break
    found = torch.cat(drawn)
    assert 0 < len(allowed) < len(x)
    torch.testing.assert_close(found[found[:, 0].argsort()], allowed[allowed[:, 0].argsort()], rtol=0, atol=0)


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
