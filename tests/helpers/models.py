"""The small models over which the laws are tested, with weights that make the tests mean something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from secateur.graph import Graph
from secateur.zoo.models import lenet5, lenet300, resnet20, vgg16_bn

__all__ = ["OPERATORS", "SMALL", "TORCHVISION", "Case", "random_selection", "randomise"]


@dataclass(frozen=True)
class Case:
    """A model, untrained but with random values everywhere, and the shape of one input."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def model(self, seed: int = 0) -> nn.Module:
        """Return the model in eval mode."""
        torch.manual_seed(seed)
        return randomise(self.make(), seed).eval()

    def inputs(self, batch: int = 2, seed: int = 0) -> Tensor:
        """Return a batch of normal inputs."""
        return torch.randn(batch, *self.shape, generator=torch.Generator().manual_seed(seed + 1))


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Give every parameter and buffer a value that is not trivial: gains, statistics, biases, zero gammas.

    Without this a pruned model equals the dense one where a gain is zero, and a test proves nothing.
    """
    rng = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            module.running_var.uniform_(0.5, 1.5, generator=rng)
            assert module.running_mean is not None
            module.running_mean.normal_(0, 0.2, generator=rng)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1:
                noise = torch.randn(parameter.shape, generator=rng) * 0.2
                parameter.add_(torch.where(noise.abs() < 0.02, torch.full_like(noise, 0.05), noise))
            elif parameter.abs().max() < 1e-3:
                parameter.normal_(0, 0.05, generator=rng)
    return model


def random_selection(
    graph: Graph, share: float, seed: int, empty: frozenset[str] = frozenset()
) -> dict[str, tuple[int, ...]]:
    """Drop a share of the units of every group at random, at least one, and all units of the `empty` groups.

    The last unit of a group or segment stays.
    """
    rng = np.random.default_rng(seed)
    kept: dict[str, tuple[int, ...]] = {}
    for group in graph.groups:
        stays = set(range(group.size))
        for unit in rng.permutation(group.size)[: max(1, round(group.size * share))].tolist():
            last = any(s.units & stays == {unit} for s in group.segments)
            if len(stays) > 1 and not last:
                stays.discard(unit)
        kept[group.id] = () if group.id in empty else tuple(sorted(stays))
    return kept


def conv(inputs: int, outputs: int, kernel: int = 3, groups: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Perceptron(nn.Module):
    """Three linear layers, batch norm, and an activation that is not zero at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 9)
        self.bn = nn.BatchNorm1d(9)
        self.fc2 = nn.Linear(9, 8)
        self.fc3 = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.bn(self.fc1(x)))
        return self.fc3(nn.functional.gelu(self.fc2(x)))


class Residual(nn.Module):
    """Two residual branches, joined out of place and in place, over a stream that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.a1, self.b1 = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.a2, self.b2 = nn.Conv2d(8, 5, 3, padding=1, bias=False), nn.Conv2d(5, 8, 1, bias=False)
        self.bn_a, self.bn_b = nn.BatchNorm2d(5), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.b1(self.relu(self.a1(x)))
        y = self.bn_b(self.b2(self.relu(self.bn_a(self.a2(x)))))
        y += x
        return self.fc(self.relu(y).mean((2, 3)))


class Depthwise(nn.Module):
    """An inverted residual: expand, depthwise, squeeze and excite, project."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 6)
        self.expand = conv(6, 10, 1)
        self.depthwise = conv(10, 10, groups=10)
        self.squeeze, self.excite = nn.Conv2d(10, 4, 1), nn.Conv2d(4, 10, 1)
        self.project = nn.Conv2d(10, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depthwise(self.expand(x))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.head((x + self.project(y * gate)).mean((2, 3)))


class Dense(nn.Module):
    """Layers that read the concatenation of all that came before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4 + 3 * i) for i in range(3)])
        self.layers = nn.ModuleList([nn.Conv2d(4 + 3 * i, 3, 3, padding=1) for i in range(3)])
        self.fc = nn.Linear(13, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers):
            x = torch.cat([x, layer(torch.relu(norm(x)))], 1)
        return self.fc(x.mean((2, 3)))


class Grouped(nn.Module):
    """Grouped convolutions of both kinds: more groups than channels a group, and fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 12, 1)
        self.many = conv(12, 12, groups=6)
        self.middle = conv(12, 12, 1)
        self.few = conv(12, 12, groups=2)
        self.norm = nn.GroupNorm(1, 3)
        self.last = nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.last(self.few(self.middle(self.many(self.stem(x))))))


class Shared(nn.Module):
    """One layer called twice, and a decoder tied to the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 8)
        self.again = nn.Linear(8, 8)
        self.hidden = nn.Linear(8, 7)
        self.tied = nn.Linear(8, 7)
        self.tied.weight = self.hidden.weight
        self.out = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.encode(x))
        x = torch.relu(self.again(torch.relu(self.again(x))))
        return self.out(torch.relu(self.hidden(x)) + torch.tanh(self.tied(x)))


class Degenerate(nn.Module):
    """A dead unit, a constant unit and two equal ones."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(5, 8)
        self.fc2 = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x)))


def degenerate() -> nn.Module:
    model = Degenerate()
    with torch.no_grad():
        model.fc1.weight[:2] = 0
        model.fc1.bias[:2] = torch.tensor([-2.0, 2.0])
        model.fc1.weight[3] = model.fc1.weight[2]
        model.fc1.bias[3] = model.fc1.bias[2]
    return model


def flattened() -> nn.Module:
    return nn.Sequential(
        conv(3, 6), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 16, 8), nn.ReLU(), nn.Linear(8, 3)
    )


class Mixer(nn.Module):
    """A transformer's feed-forward branch: layer norm freezes the stream, hidden units can go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return self.head(x.mean(1))


SMALL = (
    Case("perceptron", Perceptron, (6,)),
    Case("lenet300", lenet300, (1, 28, 28)),
    Case("lenet5", lenet5, (1, 28, 28)),
    Case("resnet20", lambda: resnet20(width=0.5), (3, 16, 16)),
    Case("vgg16_bn", lambda: vgg16_bn(width=0.125), (3, 32, 32)),
    Case("residual", Residual, (3, 8, 8)),
    Case("depthwise", Depthwise, (3, 8, 8)),
    Case("dense", Dense, (3, 8, 8)),
    Case("grouped", Grouped, (3, 8, 8)),
    Case("shared", Shared, (6,)),
    Case("degenerate", degenerate, (5,)),
    Case("flattened", flattened, (3, 8, 8)),
    Case("mixer", Mixer, (5, 6)),
)


def _torchvision(name: str, **options: object) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torchvision  # here, so that the small table needs no torchvision

        model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
        return model

    return make


TORCHVISION = tuple(
    Case(name, _torchvision(name), (3, pixels, pixels))
    for name, pixels in (
        ("resnet18", 64),
        ("resnet50", 64),
        ("vgg16", 32),
        ("mobilenet_v2", 64),
        ("densenet121", 64),
        ("resnext50_32x4d", 64),
    )
)


def _lively(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Draw weights that keep the scale of what flows: as torchvision leaves some, inputs hardly reach the outputs."""

    def made() -> nn.Module:
        model = make()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        return model

    return made


_PLAIN = {"num_classes": 10, "aux_logits": False, "init_weights": False}
OPERATORS = tuple(
    Case(name, _lively(_torchvision(name, **options)), (3, pixels, pixels))
    for name, pixels, options in (
        ("efficientnet_b0", 32, {"num_classes": 10}),
        ("shufflenet_v2_x0_5", 64, {"num_classes": 10}),
        ("squeezenet1_1", 48, {"num_classes": 10}),
        ("googlenet", 48, _PLAIN),
        ("inception_v3", 80, _PLAIN),
        ("mnasnet0_5", 32, {"num_classes": 10}),
        ("regnet_y_400mf", 32, {"num_classes": 10}),
        ("mobilenet_v3_small", 32, {"num_classes": 10}),
        ("convnext_tiny", 32, {"num_classes": 10}),
    )
)
