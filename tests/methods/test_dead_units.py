"""Exact removal after connection pruning: what is left computes the same, and nothing dead is left."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from models import SMALL, Case, randomise
from torch import Tensor, nn

import secateur as sc
from secateur.graph import trace
from secateur.ground.tensors import tensors_of
from secateur.measure import parameters
from secateur.methods.dead_units import without_dead_units
from secateur.surgery.constant import TRANSPARENT, constants_read
from secateur.zoo.models import resnet20, vgg16_bn

BY_NAME = {case.name: case for case in SMALL}


class Encoder(nn.Module):
    """A transformer layer over tokens, with attention as plain linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        h = self.norm1(x)
        q, k, v = (f(h).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


CASES = (*SMALL, Case("encoder", Encoder, (5, 6)), Case("vgg", lambda: vgg16_bn(width=0.25), (3, 32, 32)),
         Case("resnet", resnet20, (3, 16, 16)))  # fmt: skip


def sparse(case: Case, share: float, seed: int) -> nn.Module:
    """Return a model with random connections left, whole kernels for convolutions, and some biases."""
    model = case.model(seed).double()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            kernels = (torch.rand(parameter.shape[:2], generator=rng) < share).double()
            parameter.mul_(kernels.view(*kernels.shape, *(1 for _ in parameter.shape[2:])))
    return model


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("share", [0.3, 0.08])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_random_masks(case: Case, share: float, seed: int) -> None:
    model, x = sparse(case, share, seed), case.inputs(3, seed=7).double()
    before = copy.deepcopy(model.state_dict())
    removal = without_dead_units(model, case.inputs(2).double())
    with torch.no_grad():
        expected, found = model(x), removal.model(x)
    scale = float(expected.abs().max()) or 1.0
    assert float((expected - found).abs().max()) <= 1e-9 * scale
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    again = without_dead_units(removal.model, case.inputs(2).double())
    # A grouped convolution takes constants only once a single group is left, and where a single head is left its
    # channels are units of their own.
    if case.name not in {"grouped", "encoder"}:
        assert parameters(again.model) == parameters(removal.model)  # a fixed point
    if share < 0.1:
        assert parameters(removal.model) < parameters(model)


def test_a_chain_that_feeds_nothing_goes() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    with torch.no_grad():
        model[4].weight[:, 2:] = 0
        model[2].weight[:2, 3:] = 0
    removal = without_dead_units(model, torch.ones(1, 4))
    assert [m.out_features for m in removal.model if isinstance(m, nn.Linear)] == [3, 2, 2]


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Sigmoid(), nn.GELU(), nn.Tanh()])
def test_a_constant_moves_into_the_bias_of_its_reader(activation: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), activation, nn.Linear(5, 3)).double().eval()
    with torch.no_grad():
        model[0].weight[1:3] = 0
    removal = without_dead_units(model, torch.ones(1, 4, dtype=torch.float64))
    assert removal.folded == 2
    assert removal.model[0].out_features == 3
    expected = model[2].bias + model[2].weight[:, 1:3] @ activation(model[0].bias[1:3])
    torch.testing.assert_close(removal.model[2].bias, expected)


def chain(padding: int, bias: bool, constant: float, norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=padding, bias=bias)]
    model = nn.Sequential(*layers, *([nn.BatchNorm2d(3)] if norm else []), nn.Flatten(), nn.LazyLinear(2))
    model(torch.ones(2, 1, 8, 8))
    randomise(model, 0)
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = constant
    return model.double().eval()


@pytest.mark.parametrize(
    ("padding", "bias", "constant", "norm", "left"),
    [
        (0, True, 2.0, False, 3),
        (0, False, 2.0, True, 3),  # the BatchNorm takes it
        (0, False, 2.0, False, 4),  # nothing takes it
        (1, True, 2.0, False, 4),  # zero padding: it is less at the border
        (1, True, -2.0, False, 3),  # the ReLU makes it zero
        (1, False, -2.0, False, 3),
    ],
)
def test_a_constant_is_folded_only_where_that_is_exact(
    padding: int, bias: bool, constant: float, norm: bool, left: int
) -> None:
    model, x = chain(padding, bias, constant, norm), torch.randn(3, 1, 8, 8).double()
    removal = without_dead_units(model, x)
    assert removal.model[0].out_channels == left
    torch.testing.assert_close(removal.model(x), model(x))


def test_flattened_maps_fold_position_by_position() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Flatten(),
                          nn.Linear(3 * 16, 2)).double().eval()  # fmt: skip
    with torch.no_grad():
        model[0].weight[:2] = 0
        model[1].weight[0, 2] = 0  # reads constants alone, which differ at the border
    x = torch.randn(2, 1, 4, 4).double()
    removal = without_dead_units(model, x)
    assert removal.folded == 1
    assert removal.model[0].out_channels == 3  # read with zero padding
    assert removal.model[1].out_channels == 2
    torch.testing.assert_close(removal.model(x), model(x))


def test_a_residual_branch_without_connections_goes_as_a_whole() -> None:
    case = BY_NAME["resnet20"]
    model, x = case.model().double(), case.inputs(3).double()
    with torch.no_grad():
        model.layer1[0].conv2.weight.zero_()
    removal = without_dead_units(model, x)
    assert "layer1.0.conv1.weight" not in removal.model.state_dict()
    torch.testing.assert_close(removal.model(x), model(x))


def test_nothing_dead_nothing_changed() -> None:
    case = BY_NAME["residual"]
    removal = without_dead_units(case.model(), case.inputs())
    assert not removal.plan.kept
    assert not removal.plan.tensors


def test_a_result_that_is_saved_and_loaded(tmp_path: Path) -> None:
    case = BY_NAME["vgg16_bn"]
    model = sparse(case, 0.1, 0).float()
    result = sc.prune(model, case.inputs(), progress=False, method=sc.DeadUnits())
    assert result.report.after.params < result.report.before.params
    result.save(tmp_path / "small")
    loaded = sc.load(tmp_path / "small", case.make)
    x = case.inputs(3, seed=4)
    assert torch.equal(loaded(x), result.model(x))


@pytest.mark.parametrize(
    "f",
    [F.relu, F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.gelu, F.silu, F.mish, torch.sigmoid, torch.tanh,
     F.elu, F.selu, F.celu, F.leaky_relu, F.softplus, torch.exp, torch.abs, lambda x: x.clamp(0, 1),
     lambda x: F.softmax(x, 1), lambda x: F.max_pool2d(x, 2), lambda x: F.avg_pool2d(x, 2, padding=1),
     lambda x: F.adaptive_avg_pool2d(x, 2), lambda x: x.mean((2, 3)), lambda x: x * 0, lambda x: x.sum(1)],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_transparent_operators_do_not_lose_nan(f: object, dtype: torch.dtype) -> None:
    for size in (2, 8, 33):  # vectorised and not
        x = torch.full((2, 3, size, size), torch.nan, dtype=dtype)
        assert bool(f(x).isnan().all())  # type: ignore[operator]


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        return self.out(torch.where(y > 0, torch.ones_like(y), torch.zeros_like(y)))


def test_what_is_not_understood_is_no_constant() -> None:
    """A comparison hides NaN: it must not look like a constant."""
    model = Odd().eval()
    graph = trace(model, torch.ones(2, 3))
    read = constants_read(graph, tensors_of(model))
    assert all(bool(x.isnan().all()) for x in read.values())
    assert not {"gt", "where", "pow"} & TRANSPARENT


class Counting(nn.Module):
    """Writes into a buffer, and into a value by an operator that is not understood."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        torch.square_(y)
        return self.out(y + self.seen.add_(y.mean(0)) * 0)


def test_finding_constants_does_not_write_into_the_model() -> None:
    model = Counting().eval()
    graph = trace(model, torch.ones(2, 3))
    before = {name: t.clone() for name, t in tensors_of(model).items()}
    read = constants_read(graph, tensors_of(model))
    assert bool(read["linear_1"].isnan().all())
    assert all(torch.equal(t, before[name]) for name, t in tensors_of(model).items())
