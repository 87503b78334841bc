from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from secateur.ground.errors import ArtefactError, UnknownNameError
from secateur.zoo import PRETRAINED, pretrained, weights


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(weights, "files", lambda package: tmp_path)
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def test_weights_are_loaded_and_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = PRETRAINED["resnet20-fashion"]
    model = entry.make()
    save_file(model.state_dict(), folder / "resnet20-fashion.safetensors")
    monkeypatch.setitem(PRETRAINED, "resnet20-fashion", replace(entry, sha256=""))
    loaded = pretrained("resnet20-fashion")
    assert not loaded.training
    assert all(
        torch.equal(a, b)
        for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    )
    monkeypatch.setitem(PRETRAINED, "resnet20-fashion", replace(entry, sha256="0" * 64))
    with pytest.raises(ArtefactError, match="hash to"):
        pretrained("resnet20-fashion")


def test_missing_weights_say_how_to_train_them(folder: Path) -> None:
    with pytest.raises(ArtefactError, match=r"benchmarks/train_zoo\.py resnet20-cifar10"):
        pretrained("resnet20-cifar10")


def test_unknown_network_suggests() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet20-cifar10'"):
        pretrained("resnet20_cifar10")


@pytest.mark.parametrize("name", PRETRAINED)
def test_every_entry_takes_its_input(name: str) -> None:
    entry = PRETRAINED[name]
    if (files("secateur.zoo") / "weights" / f"{name}.safetensors").is_file():
        model: nn.Module = pretrained(name)
    else:
        model = entry.make().eval()
    with torch.inference_mode():
        assert model(torch.zeros(entry.input)).shape == (1, 10)
