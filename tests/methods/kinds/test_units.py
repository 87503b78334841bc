"""prune, end to end on tiny networks."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import SMALL, randomise
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import secateur as sc
from secateur.ground.errors import ArtefactError, BudgetError, CalibrationError, TraceError, UnknownNameError
from secateur.methods import Method
from secateur.zoo.models import LeNet5, LeNet300, resnet20, vgg16_bn


def ready(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return randomise(make(), seed).eval()


def small(name: str) -> tuple[nn.Module, Tensor]:
    case = next(case for case in SMALL if case.name == name)
    return case.model(), case.inputs(24, seed=3)


def run(
    model: nn.Module, x: Tensor, method: Method | None = None, budget: sc.Budget | None = None, **options: Any
) -> sc.Result:
    limits = {k: options.pop(k) for k in vars(sc.Limits()) if k in options}
    arguments: dict[str, Any] = {"calibration": x.split(8), "progress": False, "limits": sc.Limits(**limits)}
    arguments |= options
    return sc.prune(
        model, x[:2], method=method or sc.SNP(), budget=budget or sc.Budget(macs=0.6), **arguments
    )


def distance(a: nn.Module, b: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float(((a(x) - b(x)) ** 2).mean())


ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (lambda: resnet20(width=0.25), (3, 16, 16)),
    "vgg": (lambda: vgg16_bn(width=0.05), (3, 32, 32)),
    "lenet5": (LeNet5, (1, 28, 28)),
    "lenet300": (LeNet300, (1, 28, 28)),
}


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("resnet", sc.SNP()),
        ("vgg", sc.SNP()),
        ("lenet5", sc.SNP()),
        ("lenet300", sc.SNP.paper()),
        ("vgg", sc.SNP.paper()),
        ("lenet5", sc.Magnitude(recovery=sc.OnePass())),
        ("lenet300", sc.Random(seed=1)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.label,
)
def test_networks_of_the_zoo(name: str, method: Method) -> None:
    make, shape = ZOO[name]
    model, x = ready(make), torch.randn(12, *shape, generator=torch.Generator().manual_seed(1))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = run(model, x, method, sc.Budget(macs=0.6))
    report = result.report
    assert report.after.macs <= 0.6 * report.before.macs
    assert report.after.params < report.before.params
    assert report.max_masked_difference < 1e-3
    assert report.method == method.label
    with torch.no_grad():
        assert result.model(x).shape == model(x).shape
        assert bool(result.model(x).isfinite().all())
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert type(result.model) is type(model)


@pytest.mark.parametrize(
    "name",
    [
        case.name
        for case in SMALL
        if case.name not in ("shared", "lenet300", "lenet5", "resnet20", "vgg16_bn")
    ],
)
def test_recovery_brings_the_outputs_closer(name: str) -> None:
    model, x = small(name)
    budget = sc.Budget(params=0.75)
    repaired = run(model, x, sc.Random(recovery=sc.Sequential()), budget)
    plain = run(model, x, sc.Random(), budget)
    assert repaired.plan.kept == plain.plan.kept
    assert distance(repaired.model, model, x) < 0.9 * distance(plain.model, model, x)


class Named(nn.Module):
    """Two inputs, one of which may be left to its default."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.gate, self.out = nn.Linear(4, 12), nn.Linear(3, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
        return self.out(torch.relu(self.fc(x)) * torch.sigmoid(self.gate(y)) * scale)


def test_keyword_inputs() -> None:
    model = ready(Named)
    batch = {"y": torch.randn(32, 3), "labels": torch.zeros(32), "x": torch.randn(32, 4)}
    example = {"y": torch.randn(2, 3), "x": torch.randn(2, 4)}  # in another order than forward's
    result = sc.prune(
        model, example, method=sc.SNP(), budget=sc.Budget(macs=0.5), calibration=[batch], progress=False
    )
    assert result.model.get_submodule("fc").out_features <= 6
    assert result.report.after.macs <= 0.5 * result.report.before.macs
    assert result.report.latency is not None
    assert result.report.latency.batch == 2


def test_positional_inputs_and_labels() -> None:
    model = ready(Named)
    data = TensorDataset(torch.randn(32, 4), torch.randn(32, 3), torch.zeros(32))
    result = sc.prune(
        model,
        (torch.randn(2, 4), torch.randn(2, 3)),
        method=sc.SNP.paper(),
        budget=sc.Budget(params=0.5),
        calibration=DataLoader(data, batch_size=10),
        progress=False,
    )
    assert result.report.after.params <= 0.5 * result.report.before.params


def test_a_stream_of_batches_is_enough() -> None:
    model, x = small("residual")

    def stream() -> Iterator[Tensor]:
        yield from x.split(8)

    once, again = run(model, x, calibration=stream()), run(model, x)
    assert all(
        torch.equal(a, b) for a, b in zip(once.model.state_dict().values(), again.model.state_dict().values())
    )


def test_the_same_seed_gives_the_same_model() -> None:
    model, x = small("residual")
    first, second = run(model, x, seed=4), run(model, x, seed=4)
    assert first.plan.kept == second.plan.kept
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values())
    )


def test_the_generator_of_torch_is_left_alone() -> None:
    model, x = small("residual")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(model, x)
    assert torch.equal(torch.rand(3), expected)


def test_training_mode_and_gradients_stay() -> None:
    model, x = small("residual")
    model.train()
    model.get_submodule("bn_a").eval()
    model.get_parameter("fc.weight").requires_grad_(False)
    modes = {name: m.training for name, m in model.named_modules()}
    result = run(model, x)
    assert {name: m.training for name, m in model.named_modules()} == modes
    assert {name: m.training for name, m in result.model.named_modules()} == modes
    assert not result.model.get_parameter("fc.weight").requires_grad
    assert result.model.get_parameter("a1.weight").requires_grad


def test_saved_is_loaded(tmp_path: Path) -> None:
    model, x = small("residual")
    result = run(model, x, budget=sc.Budget(macs=0.45))
    folder = result.save(tmp_path / "half")
    loaded = sc.load(folder, type(model))
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), result.model(x))
    assert list(loaded.state_dict()) == list(result.model.state_dict())


def test_a_branch_may_go_as_a_whole(tmp_path: Path) -> None:
    model, x = small("residual")
    smallest = run(model, x, sc.Random(recovery=sc.Sequential()), sc.Budget(macs=0.2))
    emptied = [id for id, units in smallest.plan.kept.items() if not units]
    assert emptied
    assert all(f"{id}.weight" not in smallest.model.state_dict() for id in emptied)
    bare = run(model, x, sc.Random(), sc.Budget(macs=0.2))
    assert distance(smallest.model, model, x) < distance(bare.model, model, x)
    loaded = sc.load(smallest.save(tmp_path / "small"), type(model))
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), smallest.model(x))
    stays = run(model, x, sc.Random(), sc.Budget(macs=0.6), floor=2)
    assert all(len(units) >= 2 for units in stays.plan.kept.values())


def test_round_to_and_exclude() -> None:
    model, x = small("residual")
    result = run(model, x, budget=sc.Budget(macs=0.75), round_to=2, exclude=("a2",))
    assert "a2" not in result.plan.kept
    assert len(result.plan.kept["a1"]) in (0, 2, 4)
    assert result.report.refused["a2"] == "a2 is excluded"
    assert result.recipe["limits"]["round_to"] == 2
    by_type = run(model, x, budget=sc.Budget(macs=0.9), exclude=(nn.Linear,))
    assert by_type.recipe["limits"]["exclude"] == [{"type": "Linear"}]


def test_variance_is_a_budget_of_its_own() -> None:
    model, x = small("perceptron")
    loose, tight = (run(model, x, sc.SNP.paper(), sc.Budget(variance=v)) for v in (0.999, 0.7))
    assert all(set(tight.plan.kept[id]) <= set(units) for id, units in loose.plan.kept.items())
    assert tight.report.after.macs < loose.report.after.macs


def test_accuracy_is_that_of_the_caller() -> None:
    model, x = small("perceptron")
    seen: list[int] = []

    def evaluate(net: nn.Module) -> float:
        seen.append(sum(p.numel() for p in net.parameters()))
        return 0.5 + 0.1 * len(seen)

    report = run(model, x, evaluate=evaluate).report
    assert report.scores is not None
    assert seen.count(report.before.params) == 1
    assert seen.count(report.after.params) == 2
    assert report.scores.recovered is not None
    plain = run(model, x, sc.Magnitude(), evaluate=evaluate).report
    assert plain.scores is not None
    assert plain.scores.recovered is None


def test_code_that_repeats_a_size_goes_with_its_traced_calls(tmp_path: Path) -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x)).reshape(-1, 8)
            return self.c(torch.relu(self.b(x)))

    model, x = ready(Stubborn), torch.randn(24, 4)
    result = run(model, x)
    assert len(result.plan.kept["a"]) < 8
    assert result.report.refused == {}
    assert isinstance(result.model, Stubborn)
    loaded = sc.load(result.save(tmp_path / "stubborn"), Stubborn)
    assert torch.equal(loaded(x), result.model(x))


def test_a_fixed_batch_size() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x))).reshape(20, 2)

    model, x = ready(Fixed), torch.randn(40, 4)
    result = sc.prune(
        model, x[:20], method=sc.SNP(), budget=sc.Budget(macs=0.5), calibration=[x], progress=False
    )
    assert result.model.get_submodule("a").out_features <= 8


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"calibration": []}, CalibrationError),
        ({"calibration": iter(())}, CalibrationError),
        ({"calibration": None}, CalibrationError),
        ({"calibration": torch.randn(4, 6)}, CalibrationError),
        ({"calibration": [torch.randn(4, 7)]}, CalibrationError),
        ({"calibration": [torch.randn(4, 6).double()]}, CalibrationError),
        ({"calibration": [torch.full((4, 6), float("nan"))]}, CalibrationError),
        ({"calibration": [{"x": torch.randn(4, 6)}]}, CalibrationError),
        ({"calibration": ["file.png"]}, CalibrationError),
        ({"budget": sc.Budget(macs=1e-6)}, BudgetError),
        ({"round_to": 0}, BudgetError),
        ({"floor": -1}, BudgetError),
        ({"floor": 1000}, BudgetError),
        ({"exclude": ["fc9"]}, UnknownNameError),
        ({"exclude": ["*"]}, BudgetError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else next(iter(value)),
)
def test_bad_inputs_are_typed_and_leave_the_model_alone(
    wrong: dict[str, Any], error: type[Exception]
) -> None:
    model, x = small("perceptron")
    model.train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error):
        run(model, x, **wrong)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(m.training for m in model.modules())


def test_activations_that_are_not_finite() -> None:
    model, x = small("perceptron")
    with torch.no_grad():
        model.get_parameter("fc2.weight")[0] = float("inf")
    with pytest.raises(CalibrationError, match="not finite"):
        run(model, x)


def test_a_model_that_cannot_be_exported() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if bool((x > 0).any()) else x

    with pytest.raises(TraceError):
        run(Branches(), torch.randn(8, 4))


def test_nothing_is_left_of_a_save_that_fails(tmp_path: Path) -> None:
    model, x = small("perceptron")
    result = run(model, x)
    result.save(tmp_path / "there")
    listing = sorted(p.name for p in (tmp_path / "there").iterdir())
    broken = replace(result, report=replace(result.report, recipe={"unwritable": object()}))
    with pytest.raises(ArtefactError, match=r"recipe\.yaml"):
        broken.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there"]
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == listing


@pytest.mark.parametrize("seed", [0, 1])
def test_streams_lose_units_where_asked(seed: int) -> None:
    """Every layer of the stream loses the same units, the verified network is repaired, and less differs for it."""
    model = ready(lambda: resnet20(width=0.25), seed)
    x = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    whole = run(model, x, budget=sc.Budget(macs=0.3))
    result = run(model, x, budget=sc.Budget(macs=0.3), streams=True)
    bare = run(model, x, budget=sc.Budget(macs=0.3), streams=True, method=replace(sc.SNP(), recovery=None))
    widths = [m.out_channels for m in (result.model.conv1, *(b.conv2 for b in result.model.layer1))]
    assert widths == [len(result.plan.kept["conv1"])] * 4
    assert any(n < size for group, (n, size) in result.report.kept.items() if group not in whole.report.kept)
    assert result.report.ratios()["macs"] <= 0.3
    assert result.report.max_masked_difference < 1e-4
    assert distance(result.model, model, x) < distance(bare.model, model, x)


def test_a_budget_out_of_reach_names_what_was_left_whole() -> None:
    model, x = small("residual")
    with pytest.raises(
        BudgetError, match=r"out of reach: .* Left whole: stem\.0: a residual stream: .*streams=True"
    ):
        run(model, x, budget=sc.Budget(macs=0.05))


class Checked(nn.Module):
    """Its code holds a size against one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 12
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)

    def wanted(self) -> int:
        return self.width

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        assert x.shape[-1] == self.wanted(), "another width"
        y: Tensor = self.b(torch.relu(x))
        return y


class CheckedByLayer(Checked):
    def wanted(self) -> int:
        return self.a.out_features


def test_a_budget_out_of_reach_names_the_check_that_is_in_the_way() -> None:
    x = torch.randn(32, 6)
    with pytest.raises(
        BudgetError, match=r"Left whole: a: with fewer units Checked .*another width\. Remedy: .*out_features"
    ):
        run(Checked().eval(), x)
    assert run(CheckedByLayer().eval(), x).model.a.out_features < 12
