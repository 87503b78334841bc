"""Blocks of parallel branches, fused by their own methods, pruned and loaded."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import randomise
from torch import Tensor, nn

import secateur as sc
from secateur.ground.errors import SurgeryError


class Branches(nn.Module):
    """A 3x3, a 1x1 and an identity, summed."""

    def __init__(self, width: int, wrong: float = 0.0) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)
        self.deployed: nn.Module | None = None
        self.wrong = wrong

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) + self.b(x) + x if self.deployed is None else self.deployed(x)
        return y.relu()

    def switch_to_deploy(self) -> None:
        fused = nn.Conv2d(self.a.in_channels, self.a.out_channels, 3, padding=1)
        with torch.no_grad():
            fused.weight.copy_(self.a.weight)
            fused.weight[:, :, 1, 1] += self.b.weight[:, :, 0, 0] + torch.eye(len(fused.weight)) + self.wrong
            fused.bias.copy_(self.a.bias + self.b.bias)
        self.deployed = fused
        del self.a, self.b


def network(wrong: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), Branches(8, wrong), Branches(8), nn.Conv2d(8, 4, 1))
    return nn.Sequential(*layers)


def timm_model(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        torch.manual_seed(0)
        return timm.create_model(name, num_classes=5)

    return make


@pytest.mark.parametrize("make", [network, timm_model("mobileone_s0"), timm_model("repghostnet_050")])
def test_pruned_as_deployed_and_loaded(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = randomise(make(), 0)
    x = torch.randn(4, 3, 32, 32)
    fused = sc.reparameterize(model, x)
    assert model.training  # as it was
    assert len(list(fused.parameters())) < len(list(model.parameters()))
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x), rtol=1e-3, atol=1e-3 * float(model(x).abs().max()))
    result = sc.prune(
        fused, x[:2], method=sc.Magnitude(), budget=sc.Budget(macs=0.6), calibration=[x], progress=False
    )
    assert result.report.ratios()["macs"] <= 0.6
    result.save(tmp_path / "small")
    again = sc.load(tmp_path / "small", lambda: sc.reparameterize(randomise(make(), 1), x))
    with torch.no_grad():
        assert torch.equal(again(x), result.model(x))


def test_what_cannot_be_fused_or_is_fused_wrongly() -> None:
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(SurgeryError, match=r"No module of Sequential says how .*switch_to_deploy"):
        sc.reparameterize(nn.Sequential(nn.Conv2d(3, 4, 1)), x)
    with pytest.raises(SurgeryError, match="With fused branches in 1, 2 the model computes something else"):
        sc.reparameterize(network(wrong=0.5), x)


def test_methods_that_want_arguments_are_left_alone() -> None:
    class Wants(nn.Linear):
        def fuse(self, other: nn.Module) -> nn.Module:
            raise AssertionError("must not be called")

    with pytest.raises(SurgeryError, match="No module"):
        sc.reparameterize(nn.Sequential(Wants(4, 4)), torch.randn(2, 4))
