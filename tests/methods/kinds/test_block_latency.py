"""Latency budgets of blocks, on a processor whose times follow from the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.blocks import ZERO, Costs
from secateur.ground.errors import BudgetError
from secateur.methods.kinds.block_latency import SHARES, shares_within_latency
from secateur.runtime.timer import TimedLayers

START = 0.2


class Counting:
    """A processor that takes a microsecond for each weight that is not zero; `slow` layers take the same whatever."""

    def __init__(self, slow: Sequence[str] = (), stretch: float = 1.0) -> None:
        self.slow, self.stretch, self.compiled = slow, stretch, 0

    def compile(self, model: nn.Module, inputs: Any) -> TimedLayers:
        self.compiled += 1
        return TimedLayers(model, {n: ms for n, ms in self._layers(model).items() if n not in self.slow})

    def models(self, networks: Sequence[nn.Module], inputs: Any) -> Sequence[float]:
        return [START + sum(self._layers(n).values()) ** self.stretch for n in networks]

    def _layers(self, model: nn.Module) -> Mapping[str, float]:
        weights = {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        return {n: 1e-3 * float(w.numel() if n in self.slow else (w != 0).sum()) for n, w in weights.items()}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    parts = [
        nn.Linear(16, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 8),
    ]
    return nn.Sequential(*parts).eval()


def fast(share: float, timer: Counting, seed: int = 0, **options: Any) -> sc.Result:
    method = sc.MicroStructured(sc.Block(4, 1), skip=(), **options)
    budget = sc.Budget(latency=share)
    return sc.prune(
        network(seed), torch.ones(2, 16), method=method, budget=budget, timer=timer, progress=False
    )


@pytest.mark.parametrize("stretch", [1.0, 0.9, 1.2])
@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
@pytest.mark.parametrize("seed", range(2))
def test_what_comes_out_is_just_within_the_budget(share: float, stretch: float, seed: int) -> None:
    """Law 3; with a stretch the network takes other times than its layers say."""
    timer = Counting(stretch=stretch)
    result = fast(share, timer, seed)
    dense, ms = timer.models([network(seed), result.model], None)
    assert ms <= share * dense
    assert ms > (share - 0.06) * dense
    assert "compiled" in result.report.budget


def test_layers_that_the_kernels_do_not_run_stay_whole() -> None:
    result = fast(0.7, Counting(slow=["2"]))
    assert result.plan.patterns["2.weight"].share(ZERO) == 0
    assert result.plan.patterns["4.weight"].share(ZERO) > 0


def test_a_budget_out_of_reach_says_how_far_the_model_can_go() -> None:
    with pytest.raises(
        BudgetError, match=r"with 95 % of the blocks at zero the compiled model takes 0\.\d+ ms, dense 7"
    ):
        fast(0.01, Counting())
    with pytest.raises(BudgetError, match="no layer of this model is faster"):
        fast(0.5, Counting(slow=["0", "2", "4", "6"]))


def test_zeros_of_an_earlier_result_stay() -> None:
    model, x = network(), torch.ones(2, 16)
    block = sc.Block(4, 1)
    first = sc.prune(
        model, x, method=sc.MicroStructured(block, zero=0.3, skip=()), budget=None, progress=False
    )
    second = sc.prune(
        first,
        x,
        dense=model,
        method=sc.MicroStructured(block, skip=()),
        budget=sc.Budget(latency=0.5),
        timer=Counting(),
        progress=False,
    )
    for name, pattern in second.plan.patterns.items():
        old = first.plan.patterns[name].states == ZERO
        assert bool((pattern.states[old] == ZERO).all()), name


def test_unified_shares_are_the_methods() -> None:
    result = fast(0.6, Counting(), unify=0.1)
    assert all(p.share(2) == pytest.approx(0.1, abs=0.01) for p in result.plan.patterns.values())


@pytest.mark.parametrize("seed", range(3))
def test_the_shares_are_about_the_best_there_are(seed: int) -> None:
    """Against all combinations of two layers."""
    rng = torch.Generator().manual_seed(seed)
    costs = {
        n: _costs(torch.rand(40, generator=rng, dtype=torch.float64) ** p)
        for n, p in (("a.w", 1), ("b.w", 4))
    }
    ms = {"a": 1.0, "b": 3.0}

    class Shared(nn.Module):
        def __init__(self, shares: Mapping[str, float]) -> None:
            super().__init__()
            self.ms = {n: ms[n] * (1 - shares[f"{n}.w"]) for n in ms}

    class Table:
        def compile(self, model: Any, inputs: Any) -> TimedLayers:
            return TimedLayers(model, model.ms)

        def models(self, networks: Sequence[Any], inputs: Any) -> Sequence[float]:
            return [sum(m.ms.values()) + START for m in networks]

    dense = Shared({"a.w": 0.0, "b.w": 0.0})
    found = shares_within_latency(dense, costs, Shared, sc.Budget(latency=0.5), (), Table())

    def error(name: str, share: float) -> float:
        zero = costs[name].zero.sort().values
        return float(zero[: round(share * 40)].sum() / costs[name].energy.sum())

    limit = 0.5 * Table().models([dense], ())[0]
    grid = SHARES.tolist()
    best = min(
        error("a.w", a) + error("b.w", b)
        for a in grid
        for b in grid
        if Table().models([Shared({"a.w": a, "b.w": b})], ())[0] <= limit
    )
    assert sum(error(n, s) for n, s in found.items()) <= best + 0.05


def _costs(energy: Tensor) -> Costs:
    return Costs(energy, energy / 2, energy)
