"""What the networks of benchmarks/microstructure_training.py learn: to classify images, or to code and restore them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from training import augment

from secateur.blocks import AcrossLayers, EachLayer, Spread
from secateur.blocks.blockable import SKIPPED, Place, Skip
from secateur.data import ImageData
from secateur.measure import batches, top1
from secateur.zoo import pretrained
from secateur.zoo.models import lenet5

Step = tuple[Tensor, Tensor]  # a batch of inputs, and what the outputs should be


class Autoencoder(nn.Module):
    """Code images (N, 3, 32, 32), 0..1, in a third of the values, (N, 16, 8, 8), and restore them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 16, 3, 1, 1)
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(16, 64, 3, 1, 1), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(32, 3, 4, 2, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map images to images."""
        return self.decoder(self.encoder(x))  # type: ignore[no-any-return]


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return top1(model, batches(images, labels, 100))


def psnr(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the peak signal-to-noise ratio of restored images in dB, the mean over the images."""
    found: list[Tensor] = []
    with torch.no_grad():
        for x in images.split(500):
            errors = (model(x).clamp(0, 1) - x).square().mean(dim=(1, 2, 3))
            found.append(-10 * errors.clamp_min(1e-10).log10())
    return float(torch.cat(found).mean())


def classification(images: Tensor, labels: Tensor) -> Step:
    return images, labels


def reconstruction(images: Tensor, labels: Tensor) -> Step:
    return images, images


def sgd(parameters: Iterator[nn.Parameter], lr: float) -> Optimizer:
    return torch.optim.SGD(parameters, lr, 0.9, weight_decay=5e-4, nesterov=True)


def adam(parameters: Iterator[nn.Parameter], lr: float) -> Optimizer:
    return torch.optim.Adam(parameters, lr)


@dataclass(frozen=True)
class Task:
    """A network, and how it is trained and judged; options were settled on the held-out training images."""

    make: Callable[[], nn.Module]
    dense_epochs: int = 0  # of a network that the zoo does not have trained
    optimizer: Callable[[Iterator[nn.Parameter], float], Optimizer] = sgd
    lr: float = 0.02
    shift: int = 4  # pixels
    mirror: bool = True
    raw: bool = False  # images 0..1, not normalised
    bf16: bool = True
    step: Callable[[Tensor, Tensor], Step] = classification
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy
    score: Callable[[nn.Module, Tensor, Tensor], float] = accuracy
    skip: tuple[Skip, ...] = SKIPPED
    spread: Spread = field(default_factory=EachLayer)
    stages: tuple[float, ...] = ()  # shares of zero blocks on the way of ADMM

    def images(self, data: ImageData, x: Tensor) -> Tensor:
        """Return images as the network takes them."""
        return x.float() / 255 if self.raw else data.normalise(x)

    def batch(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Step:
        """Return a training batch."""
        return self.step(augment(images, generator, self.mirror, self.shift), labels)


TASKS = {
    "resnet20-cifar10": Task(partial(pretrained, "resnet20-cifar10")),
    "vgg16bn-quarter-cifar10": Task(partial(pretrained, "vgg16bn-quarter-cifar10")),
    # LeNet-5 has no layer to spare: nearly all of its weights are in two, the smallest of the rest stays whole.
    "lenet5-mnist": Task(
        lenet5, 8, adam, lr=2e-3, shift=1, mirror=False, raw=True, bf16=False, skip=(Place.FIRST_CONVOLUTION,),
        spread=AcrossLayers(0.997), stages=(0.9, 0.96),
    ),
    "autoencoder-cifar10": Task(
        Autoencoder, 15, adam, lr=2e-3, shift=0, raw=True, bf16=False, step=reconstruction,
        loss=nn.functional.mse_loss, score=psnr
    ),
}  # fmt: skip
