"""From the name of data in a recipe to calibration batches, a score, and data to train on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.ground.errors import DataError, RecipeError, UnknownNameError
from secateur.recipes import Samples
from secateur.recipes.recipe import DataSpec
from secateur.recipes.samples import resolve_data, training_data

MODULE = """
import torch
from secateur.recipes import Samples

def number():
    return 5

def stream(n=2):
    for _ in range(n):
        yield torch.zeros(3, 4)

def both():
    return Samples([torch.zeros(1, 4)], lambda model: 0.5)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mine_for_samples.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "mine_for_samples"


def test_demo_data_scores_a_model() -> None:
    samples = resolve_data(DataSpec(name="demo", calibration=10, batch=4))
    assert [len(x) for x in samples.calibration] == [4, 4, 2]
    assert samples.evaluate is not None

    class Always(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(torch.full((len(x),), 3), 10).float()

    assert samples.evaluate(Always()) == pytest.approx(0.1)


def test_own_data(mine: str) -> None:
    assert len(list(resolve_data(DataSpec(name=f"{mine}:stream", kwargs={"n": 3})).calibration)) == 3
    assert isinstance(resolve_data(DataSpec(name=f"{mine}:both")), Samples)
    with pytest.raises(DataError, match="iterable"):
        resolve_data(DataSpec(name=f"{mine}:number"))
    with pytest.raises(UnknownNameError, match="Did you mean 'cifar10'"):
        resolve_data(DataSpec(name="cifar-10"))
    with pytest.raises(RecipeError, match=r"data\.kwargs"):
        resolve_data(DataSpec(name="demo", kwargs={"n": 3}))


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"calibration": rng.random((9, 3)), "x": rng.random((4, 3)), "y": np.array([0, 1, 2, 0])}


def test_npz(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    samples = resolve_data(DataSpec(name=str(path), calibration=7, batch=3))
    batches: list[Tensor] = list(samples.calibration)
    assert [len(b) for b in batches] == [3, 3, 1]
    assert batches[0].dtype == torch.float32
    assert samples.evaluate is not None
    expected = (arrays["x"].argmax(1) == arrays["y"]).mean()
    assert samples.evaluate(nn.Identity()) == pytest.approx(expected)
    np.savez(path, calibration=arrays["calibration"])
    assert resolve_data(DataSpec(name=str(path))).evaluate is None


def test_bad_npz(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(DataError, match="no file"):
        resolve_data(DataSpec(name=str(path)))
    np.savez(path, calibratoin=arrays["calibration"])
    with pytest.raises(DataError, match=r"no array 'calibration'.*Did you mean"):
        resolve_data(DataSpec(name=str(path)))
    np.savez(path, calibration=np.zeros((3, 4), np.uint8))
    with pytest.raises(DataError, match="normalise"):
        resolve_data(DataSpec(name=str(path)))
    np.savez(path, calibration=np.zeros((0, 4)))
    with pytest.raises(DataError, match=r"\(0, 4\)"):
        resolve_data(DataSpec(name=str(path)))
    np.savez(path, calibration=np.array([object()], dtype=object))
    with pytest.raises(DataError, match="Cannot read"):
        resolve_data(DataSpec(name=str(path)))
    np.savez(path, **arrays | {"y": np.array([0])})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="4 inputs x, but 1 labels"):
        resolve_data(DataSpec(name=str(path)))
    path.write_bytes(b"PK truncated")
    with pytest.raises(DataError, match="Cannot read"):
        resolve_data(DataSpec(name=str(path)))


def test_training_data(tmp_path: Path) -> None:
    train = {"train_x": np.random.rand(40, 3).astype(np.float32), "train_y": np.arange(40) % 2}
    np.savez(tmp_path / "a.npz", **train)  # type: ignore[arg-type]
    spec = DataSpec(str(tmp_path / "a.npz"), train_batch=9)
    loader, measure = training_data(spec, Samples([]))
    assert [len(x) for x, _ in loader] == [9] * 4
    held = {tuple(row) for x, _ in measure for row in x.tolist()}
    seen = {tuple(row) for x, _ in loader for row in x.tolist()}
    assert len(held) == 4
    assert not held & seen
    assert training_data(replace(spec, name="x:y"), Samples([], training=[1], validation=[2])) == ([1], [2])
    with pytest.raises(DataError, match="no labelled training data"):
        training_data(DataSpec("demo"), Samples([]))
    np.savez(tmp_path / "b.npz", calibration=train["train_x"])
    with pytest.raises(DataError, match="no arrays train_x and train_y"):
        training_data(DataSpec(str(tmp_path / "b.npz")), Samples([]))
    np.savez(tmp_path / "c.npz", train_x=train["train_x"], train_y=np.arange(3))
    with pytest.raises(DataError, match="40 inputs train_x and 3 labels"):
        training_data(DataSpec(str(tmp_path / "c.npz")), Samples([]))


@pytest.mark.parametrize(
    ("augment", "changed"), [("none", False), ("shift", True), ("shift-and-mirror", True)]
)
def test_training_images(augment: Any, changed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches out of all training images but the last, which validate; augmented where that is said."""
    from secateur.recipes import samples

    images = Images()
    monkeypatch.setattr(samples, "load_images", lambda name, folder: images)
    monkeypatch.setattr(samples, "HELD_OUT", 5)
    monkeypatch.setattr(samples, "held_out", lambda data: (images.train_x[-5:], images.train_y[-5:]))
    spec = DataSpec("cifar10", train_batch=4, augment=augment)
    loader, measure = training_data(spec, Samples([]))
    batches = list(loader)
    assert [len(x) for x, _ in batches] == [4, 4, 4]
    assert sorted(int(y) for _, ys in batches for y in ys) == list(range(12))
    assert [int(y) for _, ys in measure for y in ys] == [12, 13, 14, 15, 16]
    same = all(torch.equal(x, images.train_x[y]) for xs, ys in batches for x, y in zip(xs, ys))
    assert same is not changed


class Images:
    train_x = torch.rand(17, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    train_y = torch.arange(17)

    def normalise(self, x: Tensor) -> Tensor:
        return x
