"""Latency budgets, on processors that compute their times."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from models import randomise
from stopwatches import Analytic
from torch import Tensor, nn

import secateur as sc
from secateur.ground.errors import BudgetError
from secateur.zoo.models import resnet20


def plain() -> nn.Module:
    layers = []
    for inputs, outputs in ((3, 48), (48, 64), (64, 40)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 5))


def network(name: str = "plain") -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = randomise(resnet20() if name == "resnet" else plain(), 0).eval()
    return model, torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def prune(timer: Analytic, budget: sc.Budget, name: str = "plain", **options: Any) -> sc.Result:
    model, x = network(name)
    limits = {k: options.pop(k) for k in vars(sc.Limits()) if k in options}
    given: dict[str, Any] = {"method": sc.Magnitude(), "progress": False, "limits": sc.Limits(**limits)}
    given |= options
    return sc.prune(model, x[:1], budget=budget, calibration=[x], timer=timer, **given)


def level(timer: Analytic, result: sc.Result, budget: sc.Budget, name: str = "plain") -> float:
    """What the smaller model takes without noise, as a share of the budget."""
    model, x = network(name)
    quiet = Analytic(timer.stretch, timer.start)
    dense, pruned = quiet.models([model, result.model], (x[:1],))
    return pruned / budget.absolute(dense)


@pytest.mark.parametrize(("stretch", "start"), [(1.0, 0.0), (0.2, 0.05), (6.0, 0.5)])
@pytest.mark.parametrize("share", [0.8, 0.6])
def test_a_share_of_the_latency_is_met_though_the_table_is_wrong(
    share: float, stretch: float, start: float
) -> None:
    timer, budget = Analytic(stretch, start), sc.Budget(latency=share)
    result = prune(timer, budget)
    assert 0.95 <= level(timer, result, budget) <= 1
    assert result.recipe["budget"] == {"latency": share}


@pytest.mark.parametrize("name", ["plain", "resnet"])
def test_milliseconds_are_met(name: str) -> None:
    timer = Analytic(3.0, 0.5)
    model, x = network(name)
    (dense,) = Analytic(3.0, 0.5).models([model], (x[:1],))
    budget = sc.Budget(latency_ms=0.7 * dense)
    result = prune(timer, budget, name)
    assert 0.95 <= level(timer, result, budget, name) <= 1
    assert result.report.budget == f"at most {0.7 * dense:g} ms"


def test_noise_of_a_percent() -> None:
    timer = Analytic(2.0, 0.2, noise=[1.01, 0.99, 1.01, 1.0, 0.99, 0.995, 1.005] * 4)
    budget = sc.Budget(latency=0.65)
    assert 0.93 <= level(timer, prune(timer, budget), budget) <= 1.02


def test_the_batch_is_that_of_the_example_and_the_dense_model_is_timed_beside_each() -> None:
    timer = Analytic(2.0, 0.2)
    prune(timer, sc.Budget(latency=0.7))
    assert {o.rows for o in timer.asked if o.kernel} == {1}
    assert len(timer.timed) % 2 == 1  # once alone, then always in pairs
    assert len({id(model) for model in timer.timed[1::2]}) == 1


def test_what_fits_already_stays_whole() -> None:
    timer = Analytic(1.0, 0.1)
    result = prune(timer, sc.Budget(latency_ms=1e6))
    assert result.report.before == result.report.after
    assert len(timer.timed) == 5  # the last two where the budget is held again


def test_widths_and_methods_are_respected() -> None:
    timer, budget = Analytic(2.0, 0.1), sc.Budget(latency=0.7)
    result = prune(
        timer, budget, method=sc.SNP(recovery=sc.OnePass()), limits=sc.Limits(keep={"3": 50}, round_to=4)
    )
    assert result.report.kept["3"] == (52, 64)
    assert all(n % 4 == 0 for n, _ in result.report.kept.values())
    assert 0.9 <= level(timer, result, budget) <= 1


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (sc.Budget(latency=0.3), r"30\.0% of the latency\) is out of reach: .*smallest model was timed.*still has"
                                 r" \d\d\.\d% of its latency\. Ask for at least 0\.\d{3}"),
        (sc.Budget(latency_ms=2.0), r"at most 2 ms\) is out of reach: .* of its [\d.]+ ms\. Ask for at least late"),
    ],
)  # fmt: skip
def test_out_of_reach(budget: sc.Budget, message: str) -> None:
    timer = Analytic(1.0, 6.0)
    with pytest.raises(BudgetError, match=message) as refusal:
        prune(timer, budget)
    asked = str(refusal.value).split("at least ")[1].split(", allow")[0]
    ask = {"latency_ms": float(asked.partition("=")[2])} if "=" in asked else {"latency": float(asked)}
    possible = sc.Budget(**ask)
    assert level(timer, prune(timer, possible), possible) <= 1  # what the message says can be had


def test_a_model_without_groups() -> None:
    with pytest.raises(BudgetError, match=r"50\.0% of the latency\).*no group of this model may be pruned"):
        prune(Analytic(), sc.Budget(latency=0.5), exclude=["*"])


def test_code_that_resists_is_left_whole() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(16, 64), nn.Linear(64, 64), nn.Linear(64, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            if x.shape[1] != 64:
                raise ValueError("sixty-four, please")
            return self.c(torch.relu(self.b(x)))

    torch.manual_seed(0)
    model, x = Stubborn().eval(), torch.randn(40, 16)
    timer, budget = Analytic(500.0, 0.5), sc.Budget(latency=0.7)
    result = sc.prune(
        model, x[:4], method=sc.Magnitude(), budget=budget, calibration=[x], timer=timer, progress=False
    )
    assert set(result.report.kept) == {"b"}
    dense, pruned = Analytic(500.0, 0.5).models([model, result.model], (x[:4],))
    assert 0.95 <= pruned / (0.7 * dense) <= 1


class Flat(Analytic):
    """A processor on which a cut saves a fifth of the time, and more only below a fiftieth of the work."""

    largest = 0.0

    def models(self, models: Sequence[nn.Module], inputs: Any) -> Sequence[float]:
        times = super().models(models, inputs)
        self.largest = max(self.largest, *times)
        return [self._flat(time / self.largest) for time in times]

    def _flat(self, share: float) -> float:
        if share == 1.0:
            return 100.0
        return 80.0 + share if share > 0.02 else 10.0


def test_overhead_is_not_cut_down_for() -> None:
    with pytest.raises(BudgetError, match="what is left is overhead, and a further cut buys no time"):
        prune(Flat(start=0.0), sc.Budget(latency=0.5))
    assert level(Analytic(), prune(Analytic(), sc.Budget(latency=0.5)), sc.Budget(latency=0.5)) <= 1


def test_the_smallest_model_is_timed_before_a_budget_is_refused() -> None:
    timer = Flat(start=100.0)  # the smallest model is as slow
    with pytest.raises(BudgetError, match=r"at its floor \(the smallest model was timed\)"):
        prune(timer, sc.Budget(latency=0.5))


class Denormal(Analytic):
    """A processor that is slow with the values that a repair leaves: those of `dense` are fast."""

    def __init__(self, dense: nn.Module) -> None:
        super().__init__()
        self.known = dense[-1].weight.detach().clone()  # type: ignore[index,union-attr]

    def _model(self, model: nn.Module, inputs: Any) -> float:
        changed = not torch.isin(model[-1].weight, self.known).all()  # type: ignore[index,union-attr]
        return super()._model(model, inputs) * (3.0 if changed else 1.0)


def test_a_latency_budget_is_held_again_when_values_have_changed() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    x = torch.randn(256, 16)
    options: dict[str, Any] = {"budget": sc.Budget(latency=0.98), "calibration": [x], "progress": False}
    with pytest.raises(BudgetError, match=r"was missed: repaired, the smaller model takes .* are allowed"):
        sc.prune(dense, x[:8], method=sc.SNP(), timer=Denormal(dense), **options)
    assert sc.prune(dense, x[:8], method=sc.SNP(), timer=Analytic(), **options).report.budget
