"""Layers that compute their weight from parameters become plain, and can then be pruned."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import secateur as sc
from secateur.ground.errors import SurgeryError


class Standardised(nn.Conv2d):
    """A convolution whose weights have mean 0 and variance 1 for each output."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        w = w / w.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


class LowRank(nn.Module):
    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(outputs, rank) * 0.3)
        self.b = nn.Parameter(torch.randn(rank, inputs) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.a @ self.b)


class Dynamic(nn.Module):
    """The weight depends on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * x.mean())


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        Standardised(3, 16, 3, stride=2, padding=1), nn.ReLU(), Standardised(16, 24, 3, padding="same", groups=2),
        nn.ReLU(), nn.Flatten(), LowRank(24 * 64, 32, 8), nn.ReLU(),
        parametrizations.weight_norm(nn.Linear(32, 16)), nn.ReLU(), nn.Linear(16, 4),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_it_computes_the_same_with_plain_layers(seed: int) -> None:
    model, x = network(seed), torch.randn(4, 3, 16, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = sc.fold_weights(model, x[:2])
    kinds = [type(m) for m in folded if next(m.parameters(), None) is not None]
    assert kinds == [nn.Conv2d, nn.Conv2d, nn.Linear, nn.Linear, nn.Linear]
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {n for n, _ in folded.named_parameters()} >= {"0.weight", "0.bias", "5.weight", "7.weight"}


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.ConvTranspose1d(4, 6, 4, 2, 1), torch.randn(3, 4, 7)),
        (
            nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, dilation=2),
            torch.randn(3, 4, 7),
        ),
        (nn.ConvTranspose2d(4, 6, (2, 3), (2, 1), (0, 1), groups=2, bias=False), torch.randn(3, 4, 5, 5)),
        (nn.ConvTranspose3d(4, 2, 2, 2), torch.randn(2, 4, 3, 3, 3)),
    ],
)
def test_transposed_convolutions_become_plain(layer: nn.Module, x: Tensor) -> None:
    model = nn.Sequential(parametrizations.weight_norm(layer), nn.Tanh()).eval()
    folded = sc.fold_weights(model, x)
    plain = folded[0]
    assert type(plain) is type(layer).__mro__[1]  # parametrizing made a class of its own
    for name in (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "output_padding",
        "dilation",
        "groups",
    ):
        assert getattr(plain, name) == getattr(layer, name)
    torch.testing.assert_close(folded(x), model(x))
    y = x[:, :, :-1]
    torch.testing.assert_close(folded(y), model(y))


def test_a_vocoder_can_be_pruned_then() -> None:
    norm = parametrizations.weight_norm
    torch.manual_seed(0)
    model = nn.Sequential(
        norm(nn.Conv1d(4, 24, 3, padding=1)), nn.LeakyReLU(0.1), norm(nn.ConvTranspose1d(24, 12, 4, 2, 1)),
        nn.LeakyReLU(0.1), norm(nn.Conv1d(12, 1, 3, padding=1)), nn.Tanh(),
    ).eval()  # fmt: skip
    x = torch.randn(32, 4, 10)
    graph = sc.trace(sc.fold_weights(model, x[:2]), x[:2])
    assert {g.id: g.size for g in graph.groups} == {"0": 24, "2": 12}


def test_what_is_parametrized_elsewhere_becomes_plain_in_place() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = parametrizations.spectral_norm(nn.Embedding(7, 4))
            self.layer, self.out = (
                parametrizations.weight_norm(nn.GRU(4, 5, batch_first=True), "weight_hh_l0"),
                nn.Linear(5, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.layer(self.embed(x))[0])

    torch.manual_seed(0)
    model, x = Recurrent().eval(), torch.randint(0, 7, (3, 6))
    folded = sc.fold_weights(model, x)
    assert (type(folded.embed), type(folded.layer)) == (nn.Embedding, nn.GRU)
    assert {"embed.weight", "layer.weight_hh_l0"} <= {n for n, _ in folded.named_parameters()}
    torch.testing.assert_close(folded(x), model(x))


def test_what_is_plain_or_depends_on_the_input_stays() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 8)), Dynamic(), nn.Linear(8, 2))
    folded = sc.fold_weights(model, torch.randn(3, 8))
    assert str(folded) == str(model)


def test_modes_and_shared_layers() -> None:
    shared = LowRank(8, 8, 2)
    model = nn.Sequential(shared, nn.Dropout(), shared).train()
    folded = sc.fold_weights(model, torch.randn(3, 8))
    assert folded[0] is folded[2]
    assert type(folded[0]) is nn.Linear
    assert folded[0].training
    assert folded[1].training


def test_a_model_that_looks_at_the_layers_parameters_is_refused() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Standardised(3, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self.layer.weight.abs().sum()

    torch.manual_seed(0)
    with pytest.raises(SurgeryError, match="plain weights in layer"):
        sc.fold_weights(Looks(), torch.randn(2, 3, 4, 4))


def test_a_network_without_norms_can_be_pruned_then() -> None:
    torch.manual_seed(0)
    model = timm.create_model("nf_resnet26", num_classes=10).eval()
    x = torch.randn(2, 3, 64, 64)
    folded = sc.fold_weights(model, x)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
    result = sc.prune(
        folded, x, method=sc.Magnitude(), budget=sc.Budget(macs=0.7), calibration=[x], progress=False
    )
    assert result.report.ratios()["macs"] <= 0.7
