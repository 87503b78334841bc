from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from secateur.recipes.registry import Samples, import_callable, resolve_data, resolve_model, resolve_type
from secateur.recipes.schema import DataSpec, ModelSpec, TypeName
from torch import Tensor, nn

from secateur import zoo
from secateur.ground.errors import DataError, RecipeError, SecateurError, UnknownNameError

MODULE = """
import torch
from secateur.recipes.registry import Samples

VALUE = 3

class Net(torch.nn.Linear):
    pass

def build(width=4):
    return torch.nn.Linear(width, 2)

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
    (tmp_path / "mine_for_registry.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "mine_for_registry"


def test_zoo_architectures_take_arguments_and_weights(tmp_path: Path) -> None:
    source = zoo.resnet20(width=0.5)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = resolve_model(
        ModelSpec(name="zoo:resnet20", kwargs={"width": 0.5}, weights=tmp_path / "w.safetensors")
    )
    assert torch.equal(model.state_dict()["conv1.weight"], source.conv1.weight)
    assert not model.training


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(zoo.lenet300().state_dict(), path)
    with pytest.raises(RecipeError, match="do not fit"):
        resolve_model(ModelSpec(name="zoo:lenet5", weights=path))
    path.write_bytes(b"not safetensors")
    with pytest.raises(RecipeError, match="Cannot read the weights"):
        resolve_model(ModelSpec(name="zoo:lenet5", weights=path))
    with pytest.raises(RecipeError, match="Cannot read the weights"):
        resolve_model(ModelSpec(name="zoo:lenet5", weights=tmp_path / "none.safetensors"))


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("resnet18", {}, "has no source"),
        ("zoo:resnet200", {}, "Did you mean 'resnet20'"),
        ("zoo:resnet20", {"widht": 1}, "widht"),
        ("zoo:resnet20-cifar10", {"width": 1}, "takes no arguments"),
        ("no_such_module_anywhere:build", {}, "Cannot import the module"),
        ("mine_for_registry:biuld", {}, "Did you mean 'build'"),
        ("mine_for_registry:VALUE", {}, "cannot be called"),
        ("mine_for_registry:number", {}, "returned a int"),
        ("mine_for_registry:build", {"depth": 1}, "depth"),
    ],
)
def test_bad_models(mine: str, name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(SecateurError, match=message):
        resolve_model(ModelSpec(name=name, kwargs=kwargs))


def test_own_models(mine: str) -> None:
    model = resolve_model(ModelSpec(name=f"{mine}:build", kwargs={"width": 6}))
    assert isinstance(model, nn.Linear)
    assert model.in_features == 6
    with pytest.raises(UnknownNameError, match="not of the form"):
        import_callable("nothing")


def test_torchvision_models() -> None:
    pytest.importorskip("torchvision")
    model = resolve_model(ModelSpec(name="torchvision:resnet18", kwargs={"num_classes": 3}))
    assert isinstance(model.fc, nn.Linear)
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet18'"):
        resolve_model(ModelSpec(name="torchvision:resnet_18"))
    with pytest.raises(RecipeError, match="cannot be made"):
        resolve_model(ModelSpec(name="torchvision:resnet18", kwargs={"colour": 1}))


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr("secateur.recipes.registry.importlib.import_module", missing)
    with pytest.raises(RecipeError, match=r"pip install 'secateur\[timm\]'"):
        resolve_model(ModelSpec(name="timm:resnet18"))


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


def test_types(mine: str) -> None:
    assert resolve_type(TypeName(type="torch.nn.Conv2d")) is nn.Conv2d
    assert issubclass(resolve_type(TypeName(type=f"{mine}:Net")), nn.Linear)
    with pytest.raises(UnknownNameError, match="Did you mean 'Linear'"):
        resolve_type(TypeName(type="Linaer"))
    with pytest.raises(UnknownNameError, match="not a class"):
        resolve_type(TypeName(type="functional"))
