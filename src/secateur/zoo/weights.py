"""The zoo's trained networks: weights as safetensors beside this file, checked against their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

from safetensors.torch import load
from torch import nn

from secateur.ground.errors import ArtefactError, UnknownNameError, did_you_mean

from .models import resnet20, vgg16_bn

__all__ = ["PRETRAINED", "Pretrained", "pretrained"]


@dataclass(frozen=True)
class Pretrained:
    """A trained network: how to make it, what it was trained on, and the shape of one input."""

    make: Callable[[], nn.Module]
    dataset: str
    input: tuple[int, ...]
    sha256: str = ""  # of the safetensors file; empty: not checked


PRETRAINED: dict[str, Pretrained] = {
    "resnet20-fashion": Pretrained(
        lambda: resnet20(in_channels=1),
        "fashion-mnist",
        (1, 1, 28, 28),
        "0d6582a20f0bb0ab452c0daca649470ce9e676e760ce00bd82b563f6edc6127b",
    ),
    "resnet20-cifar10": Pretrained(
        resnet20,
        "cifar10",
        (1, 3, 32, 32),
        "64785d8c4312d8c09aa2987b32cda9b93a0716e015430bd358f8a847212d3424",
    ),
    "vgg16bn-quarter-cifar10": Pretrained(
        lambda: vgg16_bn(width=0.25),
        "cifar10",
        (1, 3, 32, 32),
        "0e320c8b867634f696272719d4648155621d2ec954ebfc768e5b2241b7777373",
    ),
}
"""Trained by benchmarks/train_zoo.py; accuracies in results/zoo.csv."""


def pretrained(name: str) -> nn.Module:
    """Return a trained network in evaluation mode; its data set is ``PRETRAINED[name].dataset``.

    Raises:
        UnknownNameError: no such network.
        ArtefactError: its weights are not installed, or not those that were published.
    """
    if name not in PRETRAINED:
        raise UnknownNameError(
            f"No trained network is called {name!r}; known: {', '.join(PRETRAINED)}."
            f"{did_you_mean(name, PRETRAINED)}"
        )
    entry = PRETRAINED[name]
    path = files("secateur.zoo") / "weights" / f"{name}.safetensors"
    if not path.is_file():
        raise ArtefactError(
            f"The weights of {name} are not installed with this package. Train them with "
            f"'python benchmarks/train_zoo.py {name}' and copy "
            f"runs/zoo/{name}.safetensors to src/secateur/zoo/weights/."
        )
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if entry.sha256 and found != entry.sha256:
        raise ArtefactError(
            f"The weights of {name} hash to {found[:12]}..., not {entry.sha256[:12]}...: install the package again."
        )
    model = entry.make()
    model.load_state_dict(load(data))
    return model.eval()
