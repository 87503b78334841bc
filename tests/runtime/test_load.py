"""From a packed file into the kernels' layout."""

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sparse import blocked
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import secateur as sc
from secateur import runtime
from secateur.artefact.packed import Blocks
from secateur.ground.errors import ArtefactError
from secateur.runtime import pack
from secateur.runtime.load import pack_nonzero


class Network(nn.Module):
    """Convolutions with and without groups, norms, linear layers, and one that stays dense."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.a = nn.Conv2d(16, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.b = nn.Conv2d(width, width, 3, stride=2, groups=2)
        self.c, self.d = nn.Linear(width, 4 * width), nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.norm(self.a(x)))))
        found: Tensor = self.d(torch.relu(self.c(x.mean((2, 3)))))
        return found


def network(width: int = 64) -> Network:
    torch.manual_seed(0)
    model = Network(width).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in (model.a, model.b, model.c):
            rows, columns = layer.weight.flatten(1).shape
            layer.weight.copy_(blocked(rows, columns, 8, 0.85, rng).reshape(layer.weight.shape))
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
    return model


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_blocks_are_packed_as_their_dense_weight(data: st.DataObject, tmp_path: Path) -> None:
    draw = data.draw
    taps = draw(st.sampled_from([(), (1, 1), (3, 3), (2, 3)]))
    groups = draw(st.sampled_from([1, 2])) if taps else 1
    tall = draw(st.sampled_from([1, 2, 4, 8, 16]))
    rows = groups * tall * draw(st.integers(1, 4)) if groups > 1 else draw(st.integers(tall, 40))
    wide = draw(st.integers(1, 4))
    shape = (rows, draw(st.integers(wide, 9)), *taps)
    layouts = [Blocks(tall, wide)]
    if taps:
        layouts.append(Blocks(tall, wide * taps[0] * taps[1]))
        layouts.append(Blocks(tall, wide, taps_first=True))
    layout = draw(st.sampled_from(layouts))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 1 << 20)))
    columns = torch.Size(shape[1:]).numel()
    zeros = draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    weight = blocked(rows, columns, tall, zeros, rng).reshape(shape)
    if draw(st.booleans()):
        weight = weight.sign() * 0.5  # unified
    bias = torch.randn(rows, generator=rng)
    quantise = draw(st.sampled_from([None, sc.Quantise(8), sc.Quantise(4), sc.Quantise(16)]))
    sc.pack({"w": weight}, tmp_path / "w.sec", blocks={"w": layout}, quantise=quantise)
    with sc.PackedFile(tmp_path / "w.sec") as file:
        nonzero, dense = file.nonzero("w"), file["w"]
    if nonzero is None:
        return  # dense codes were smaller
    found = pack_nonzero(nonzero, bias, groups=groups)
    assert found is not None
    height = tall if tall in runtime.HEIGHTS else 1
    expected = pack(dense, bias, height=height, groups=groups)
    assert (found.rows, found.columns, found.planes) == (expected.rows, expected.columns, 0)
    for name, tensor in expected.tensors().items():
        assert torch.equal(found.tensors()[name], tensor), name


def test_outputs_are_those_of_the_dense_network(tmp_path: Path) -> None:
    model = network()
    sc.pack(model, tmp_path / "network.sec")
    fast = runtime.load(tmp_path / "network.sec", Network)
    kinds = {name: type(layer).__name__ for name, layer in fast.named_children()}
    assert kinds == {
        "a": "SparseConv2d",
        "norm": "BatchNorm2d",
        "b": "SparseConv2d",
        "c": "SparseLinear",
        "d": "Linear",
    }
    unpacked = Network().eval()
    unpacked.load_state_dict(sc.unpack(tmp_path / "network.sec"))
    x = torch.randn(3, 16, 12, 12)
    compiled = runtime.compile(unpacked, x, folder=tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), compiled(x), rtol=1e-4, atol=1e-5)
        again = runtime.compile(fast, x, folder=tmp_path)
        torch.testing.assert_close(again(x), compiled(x), rtol=1e-4, atol=1e-5)


class Largest(TorchDispatchMode):
    """Notes the largest tensor with memory that any operator makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(out) if isinstance(t, Tensor) and not t.is_meta]
        self.elements = max([self.elements, *sizes])
        return out


def test_no_dense_weight_is_made(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(1024, 1024, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.copy_(blocked(1024, 1024, 8, 0.95, torch.Generator().manual_seed(0)))
    sc.pack(model, tmp_path / "network.sec")
    tracemalloc.start()
    try:
        with Largest() as seen:
            fast = runtime.load(
                tmp_path / "network.sec", lambda: nn.Sequential(nn.Linear(1024, 1024, bias=False))
            )
        peak = tracemalloc.get_traced_memory()[1]  # of numpy's arrays
    finally:
        tracemalloc.stop()
    dense = model[0].weight.numel()
    assert isinstance(fast[0], runtime.SparseLinear)  # type: ignore[index]
    assert seen.elements < dense // 4
    assert peak < 4 * dense // 2
    x = torch.randn(5, 1024)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_single_layer(tmp_path: Path) -> None:
    layer = network().c
    sc.pack(layer, tmp_path / "layer.sec")
    fast = runtime.load(tmp_path / "layer.sec", lambda: nn.Linear(64, 256))
    assert isinstance(fast, runtime.SparseLinear)
    x = torch.randn(2, 64)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), layer(x), rtol=1e-4, atol=1e-5)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(64, 32), nn.Linear(32, 64, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.embedding(x))
        return found


def test_tied_weights_stay_dense_and_tied(tmp_path: Path) -> None:
    model = Tied().eval()
    with torch.no_grad():
        model.head.weight[8:56] = 0
    sc.pack(model, tmp_path / "tied.sec")
    fast = runtime.load(tmp_path / "tied.sec", Tied)
    assert fast.head.weight.data_ptr() == fast.embedding.weight.data_ptr()  # type: ignore[union-attr]
    x = torch.arange(5)
    with torch.inference_mode():
        assert torch.equal(fast(x), model(x))


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("table", torch.arange(4.0), persistent=False)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    state = network().state_dict()
    sc.pack(state, tmp_path / "network.sec")
    with pytest.raises(ArtefactError, match="has the shape"):
        runtime.load(tmp_path / "network.sec", lambda: Network(32))
    with pytest.raises(ArtefactError, match=r"has no tensor 'layer\.weight'"):
        runtime.load(tmp_path / "network.sec", Table)
    sc.pack(state | {"c.bias": torch.zeros(1, 48)}, tmp_path / "bias.sec")
    with pytest.raises(ArtefactError, match=r"c\.bias has the shape \(1, 48\), the model needs \(256,\)"):
        runtime.load(tmp_path / "bias.sec", Network)
    sc.pack(Table(), tmp_path / "table.sec")
    with pytest.raises(ArtefactError, match="no values of the buffer 'table'"):
        runtime.load(tmp_path / "table.sec", Table)
    images = torch.randn(4, 16)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    result = sc.prune(model, images, method=sc.Magnitude(), budget=sc.Budget(macs=0.5), calibration=[images])
    result.save(tmp_path / "half")
    sc.pack(tmp_path / "half", tmp_path / "half.sec")
    with pytest.raises(ArtefactError, match="artefact with a plan"):
        runtime.load(tmp_path / "half.sec", lambda: model)
