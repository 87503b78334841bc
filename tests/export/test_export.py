"""ONNX files and exported programs compute what the model does, are tidy, and appear as a whole or not at all."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from command_line import run, run_json
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import secateur as sc
from secateur.export import Export, to_exported_program, to_onnx
from secateur.export import onnx as onnx_module
from secateur.export.check import difference, example_sizes
from secateur.ground.errors import ExportError

Write = Callable[..., Export]
WRITERS = [pytest.param(to_onnx, id="onnx"), pytest.param(to_exported_program, id="pt2")]


class Net(nn.Module):
    """Two inputs by keyword, a mapping as output, BatchNorm and a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor, shift: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return {"features": x, "scores": self.fc(x) + shift}


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.reshape(4, 6))


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net()
    net(torch.randn(8, 4, 6, 6), torch.randn(8, 1))  # running statistics other than zero and one
    return net.eval()


def example(n: int = 2) -> dict[str, Tensor]:
    return {"x": torch.randn(n, 4, 6, 6), "shift": torch.randn(n, 1)}


def infer(path: Path, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    session = onnxruntime.InferenceSession(path)
    names = [o.name for o in session.get_outputs()]
    found = session.run(names, {k: v.numpy() for k, v in inputs.items()})
    return {n: torch.from_numpy(x) for n, x in zip(names, found, strict=True)}


def test_onnx_takes_any_batch_and_keeps_names(net: Net, tmp_path: Path) -> None:
    written = to_onnx(net, example(), tmp_path / "net.onnx")
    assert (written.free, written.checked) == ((0,), ((1, 4, 6, 6), (3, 4, 6, 6)))
    assert written.bytes == (tmp_path / "net.onnx").stat().st_size
    assert written.max_difference < 1e-5
    for n in (1, 2, 7):
        inputs = example(n)
        found, expected = infer(written.path, inputs), net(**inputs)
        assert list(found) == ["features", "scores"]
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    model = onnx.load(written.path)
    assert [i.name for i in model.graph.input] == ["x", "shift"]
    sizes = {i.type.tensor_type.shape.dim[0].dim_param for i in (*model.graph.input, *model.graph.output)}
    assert sizes == {"batch"}
    onnx.checker.check_model(model, full_check=True)


def test_odd_widths_are_pointed_out(net: Net, tmp_path: Path) -> None:
    assert to_onnx(net, example(), tmp_path / "even.onnx").hint == ""
    odd = nn.Sequential(nn.Conv2d(3, 13, 3), nn.ReLU(), nn.Conv2d(13, 8, 1), nn.Conv2d(8, 21, 1)).eval()
    written = to_onnx(odd, torch.randn(2, 3, 8, 8), tmp_path / "odd.onnx")
    assert "2 of 3 convolutions" in written.hint
    assert str(written).endswith("prune with round_to=16.")


@pytest.mark.parametrize("write", WRITERS)
def test_files_hold_no_paths_and_no_example_data(write: Write, net: Net, tmp_path: Path) -> None:
    inputs = example()
    written = write(net, inputs, tmp_path / "net")
    data = written.path.read_bytes()
    assert __file__.encode() not in data
    assert b"stack_trace" not in data
    assert inputs["shift"].numpy().tobytes() not in data


def test_exported_program_is_bit_equal(net: Net, tmp_path: Path) -> None:
    net.train()
    written = to_exported_program(net, example(), tmp_path / "net.pt2")
    assert net.training
    net.eval()
    program = torch.export.load(written.path).module()
    for n in (1, 2, 7):
        inputs = example(n)
        assert torch.equal(program(**inputs)["scores"], net(**inputs)["scores"])


@pytest.mark.parametrize("write", WRITERS)
def test_fixed_batches_are_said_to_be_fixed(write: Write, tmp_path: Path) -> None:
    written = write(FixedBatch().eval(), torch.randn(4, 2, 3), tmp_path / "fixed")
    assert (written.free, written.checked) == ((), ((4, 2, 3),))
    with pytest.raises(ExportError, match="fixes one of them"):
        write(FixedBatch().eval(), torch.randn(4, 2, 3), tmp_path / "fixed", free=(0, 1))


@pytest.mark.parametrize("write", WRITERS)
def test_sequences_of_any_length(write: Write, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.Softmax(1)).eval()
    tokens = torch.randint(0, 20, (2, 10))
    written = write(net, tokens, tmp_path / "net", free=(0, 1))
    assert written.checked == ((1, 10), (3, 5))
    if write is to_onnx:
        inputs = torch.randint(0, 20, (5, 17))
        found = infer(written.path, {onnxruntime.InferenceSession(written.path).get_inputs()[0].name: inputs})
        torch.testing.assert_close(found["output"], net(inputs), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_differs_is_not_written(write: Write, net: Net, tmp_path: Path) -> None:
    path = tmp_path / "net"
    path.write_text("older")
    with pytest.raises(ExportError, match="differs from the model"):
        write(Random(), torch.rand(2, 3), path)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]
    write(net, example(), path)
    assert path.stat().st_size > 100
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_operators_and_missing_packages(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvalsh(x)

    with pytest.raises(ExportError, match="no ONNX form"):
        to_onnx(Odd(), torch.eye(3).repeat(2, 1, 1), tmp_path / "odd.onnx")
    with pytest.raises(ExportError, match="is a folder"):
        to_onnx(net, example(), tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"secateur\[onnx\]"):
        to_onnx(net, example(), tmp_path / "net.onnx")


def test_large_models_have_external_data(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_module, "EXTERNAL", 100)
    written = to_onnx(net, example(), tmp_path / "net.onnx")
    assert {p.name for p in tmp_path.iterdir()} == {"net.onnx", "net.onnx.data"}
    assert written.bytes == sum(p.stat().st_size for p in tmp_path.iterdir())
    inputs = example(3)
    torch.testing.assert_close(
        infer(written.path, inputs)["scores"], net(**inputs)["scores"], rtol=1e-4, atol=1e-5
    )


def test_differences() -> None:
    a = torch.tensor([1.0, -2.0, torch.nan])
    assert difference(a, a.clone()) == 0
    assert difference(a, torch.tensor([1.0, -2.0, 3.0])) == float("inf")
    assert difference(a, a[:2]) == float("inf")
    assert difference(torch.zeros(2), torch.tensor([0.0, 1e-9])) == float("inf")
    assert difference(torch.tensor([4, 2]), torch.tensor([4, 3])) == 0.25
    assert difference(torch.empty(0), torch.empty(0)) == 0


def test_sizes_leave_other_inputs_alone() -> None:
    x, table = torch.arange(6).reshape(2, 3), torch.ones(5)
    one, more = example_sizes([x, table, None], (0,))
    assert (one[0].tolist(), more[0].tolist()) == ([[0, 1, 2]], [[0, 1, 2], [3, 4, 5], [0, 1, 2]])
    assert more[1] is table
    assert example_sizes([x], ()) == [[x]]


MODULE = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
"""


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sc.Result:
    """An artefact in the folder ``half`` of the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mine_for_export", raising=False)
    (tmp_path / "mine_for_export.py").write_text(MODULE)
    import mine_for_export  # type: ignore[import-not-found]

    x = torch.rand(200, 6)
    result = sc.prune(
        mine_for_export.build().eval(), x[:2], method=sc.SNP(), budget=sc.Budget(macs=0.5), calibration=[x]
    )
    result = replace(result, model=result.model.eval())
    result.save("half")
    return result


@pytest.mark.parametrize("form", ["onnx", "exported"])
def test_command(form: str, saved: sc.Result, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("half", "--model", "mine_for_export:build", "--input", "2,6", "--format", form)
    found = run_json(capsys, "export", *where, "-o", f"half.{form}")
    assert found["format"] == form
    assert found["free"] == [0]
    assert found["checked"] == [[1, 6], [3, 6]]
    assert found["max_difference"] < 1e-6
    x = torch.rand(4, 6)
    got: Any
    if form == "onnx":
        got = infer(Path("half.onnx"), {"input": x})["output"]
    else:
        got = torch.export.load("half.exported").module()(x)
    torch.testing.assert_close(got, saved.model(x))
    assert run("export", *where, "-o", "again") == 0
    assert "differ from PyTorch's by at most" in capsys.readouterr().out


def test_command_exports_models_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = run_json(capsys, "export", "zoo:lenet5", "-o", str(tmp_path / "lenet.onnx"))
    assert json.dumps(found)
    assert Path(found["path"]).stat().st_size == found["bytes"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("half", "-o", "x.onnx"), 2),  # without its dense model
        (("zoo:lenet5", "--model", "zoo:lenet5", "-o", "x.onnx"), 2),
        (("zoo:lenet5", "--free", "a", "-o", "x.onnx"), 2),
        (("zoo:lenet5", "--format", "exported", "--opset", "18", "-o", "x.pt2"), 2),
        (("zoo:lenet5", "--format", "onxn", "-o", "x.onnx"), 2),
        (("zoo:lenet5",), 2),
        (("half", "--model", "zoo:lenet5", "-o", "x.onnx"), 1),  # made for another model
        (("half", "--model", "mine_for_export:build", "--input", "2,6", "-o", "half"), 1),  # a folder
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], code: int, saved: sc.Result) -> None:
    assert run("export", *arguments) == code
    assert not list(Path().glob("x.*"))


class Nodes(nn.Module):
    """Inputs that name one another: a sample less, and an edge points at nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        y: Tensor = self.a(x)
        return y.index_add(0, edges[1], y[edges[0]])


def test_sizes_that_the_model_refuses_are_not_compared(tmp_path: Path) -> None:
    example = torch.randn(5, 4), torch.tensor([[0, 4, 3], [1, 2, 4]])
    for write in (to_onnx, to_exported_program):
        written = write(Nodes().eval(), example, tmp_path / "nodes")
        assert written.checked == ((6, 4),)
        assert written.max_difference < 1e-6


class Pair:
    """A class of outputs that was registered without its keys."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b


pytree.register_pytree_node(Pair, lambda p: ([p.a, p.b], None), lambda leaves, _: Pair(*leaves))


class Paired(nn.Linear):
    def forward(self, x: Tensor) -> Pair:  # type: ignore[override]
        y = super().forward(x)
        return Pair(y, y.relu())


def test_outputs_of_a_class_that_names_no_keys_are_numbered(tmp_path: Path) -> None:
    to_onnx(Paired(4, 3).eval(), torch.randn(2, 4), tmp_path / "pair.onnx")
    assert [o.name for o in onnx_module.session(tmp_path / "pair.onnx").get_outputs()] == [
        "output_0",
        "output_1",
    ]


class OwnKernels(nn.Module):
    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        n, c = x.shape[:2]
        return F.conv2d(x.flatten(0, 1)[None], k.flatten(0, 1)[:, None], groups=n * c)


def test_an_error_names_the_operator_that_has_no_form(tmp_path: Path) -> None:
    example = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 3, 3)
    with pytest.raises(ExportError, match=r"no ONNX form: aten\.conv2d\.default: Unsupported attribute type"):
        to_onnx(OwnKernels(), example, tmp_path / "own.onnx")
    assert not any(tmp_path.iterdir())
