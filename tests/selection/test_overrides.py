"""What the user says about single groups."""

from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.graph import trace
from secateur.ground.errors import BudgetError, UnknownNameError
from secateur.selection.overrides import fixed_units
from secateur.surgery.candidates import candidates
from secateur.zoo.models import LeNet300, resnet20


def fixed(keep: dict[str, Any], exclude: tuple[str, ...] = ()) -> dict[str, int]:
    torch.manual_seed(0)
    model = resnet20(width=0.5).eval()
    graph = trace(model, torch.zeros(2, 3, 8, 8))
    return fixed_units(model, graph, candidates(model, graph, exclude), keep)


def test_shares_and_numbers_by_glob() -> None:
    assert fixed({}) == {}
    assert fixed({"layer1": 0.5}) == {f"layer1.{i}.conv1": 4 for i in range(3)}
    assert fixed({"layer1.*": 0.55, "layer2.0.conv1": 5}) == {
        **{f"layer1.{i}.conv1": 5 for i in range(3)},
        "layer2.0.conv1": 5,
    }
    assert fixed({"layer3.*.conv1": 1}) == {f"layer3.{i}.conv1": 32 for i in range(3)}  # all: a share
    assert fixed({"layer1": 0.5}, exclude=("layer1.1",)) == {"layer1.0.conv1": 4, "layer1.2.conv1": 4}
    assert fixed({"layer1": 0.5, "layer1.*": 4})["layer1.0.conv1"] == 4  # they agree


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        ({"layer9.*": 0.5}, UnknownNameError, r"keep: no module path matches 'layer9\.\*'\. Did you mean 'layer"),
        ({"layer1.0.conv2": 0.5}, BudgetError, "names no layer that may be pruned .* a residual stream"),
        ({"fc": 0.5}, BudgetError, r"'fc' names no layer that may be pruned \(its outputs are frozen\)"),
        ({"layer1": 0.5, "layer1.0.*": 0.75}, BudgetError, r"'layer1' and 'layer1\.0\.\*'.*ask for 4 and 6 of its 8"),
        ({"layer1": 9}, BudgetError, r"asks for 9 units, but group layer1\.0\.conv1 has only 8"),
        ({"layer1": 0}, BudgetError, "neither a share of the units"),
        ({"layer1": -0.5}, BudgetError, "neither a share of the units"),
        ({"layer1": 2.5}, BudgetError, "neither a share of the units"),
        ({"layer1": True}, BudgetError, "neither a share of the units"),
        ({"layer1": float("nan")}, BudgetError, "neither a share of the units"),
        ({"layer1": "half"}, BudgetError, "'half' is neither a share"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept(keep: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fixed(keep)


def prune(model: nn.Module, budget: sc.Budget, **options: Any) -> sc.Result:
    x = torch.randn(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    given: dict[str, Any] = {"method": sc.Magnitude(), "calibration": [x], "progress": False} | options
    return sc.prune(model, x[:2], budget=budget, **given)


def lenet300() -> LeNet300:
    torch.manual_seed(0)
    model = LeNet300()
    model.eval()
    return model


def test_a_run_keeps_what_it_was_told() -> None:
    result = prune(lenet300(), sc.Budget(macs=0.5), limits=sc.Limits(keep={"fc2": 64}, round_to=10))
    model: Any = result.model
    assert model.fc2.out_features == 70  # rounded as any other
    assert model.fc1.out_features % 10 == 0
    assert result.report.after.macs <= 0.5 * result.report.before.macs
    assert result.recipe["limits"]["keep"] == {"fc2": 64}


def test_a_fixed_group_that_the_code_resists_is_an_error() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(784, 32), nn.Linear(32, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.fc1(x.flatten(1)))
            if x.shape[1] != 32:
                raise ValueError("thirty-two, please")
            return self.fc3(torch.relu(self.fc2(x)))

    torch.manual_seed(0)
    with pytest.raises(BudgetError, match=r"keep: group fc1 cannot lose units: .*Take it out of keep"):
        prune(Stubborn().eval(), sc.Budget(macs=0.99), limits=sc.Limits(keep={"fc1": 0.5, "fc2": 0.5}))


def test_uniform_widths() -> None:
    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(784, 8), nn.Linear(8, 3)
            self.norms = nn.ModuleList([nn.LayerNorm(8) for _ in range(3)])
            self.up = nn.ModuleList([nn.Linear(8, 24) for _ in range(3)])
            self.down = nn.ModuleList([nn.Linear(24, 8) for _ in range(3)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x.flatten(1))
            for norm, up, down in zip(self.norms, self.up, self.down):
                x = x + down(torch.relu(up(norm(x))))
            return self.head(x)

    torch.manual_seed(1)
    model = Blocks().eval()
    widths = {}
    for uniform in (False, True):
        method = sc.SNP(recovery=None)  # whose groups compete
        result: Any = prune(model, sc.Budget(params=0.95), method=method, limits=sc.Limits(uniform=uniform))
        widths[uniform] = {
            int(layer.out_features) for layer in result.model.up if isinstance(layer, nn.Linear)
        }
        assert result.recipe["limits"]["uniform"] is uniform
    assert len(widths[True]) == 1 < len(widths[False])
