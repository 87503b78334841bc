"""Whole networks: compiled, they compute what the masked dense model does."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import timm
import torch
import torchvision
import transformers
from sparse import blocked
from torch import Tensor, nn
from torch.fx import GraphModule

from secateur import runtime
from secateur.ground.errors import KernelError
from secateur.runtime import SparseConv2d, SparseLinear, choose, fuse
from secateur.runtime.chain import Chain
from secateur.runtime.library import VARIABLE
from secateur.runtime.pool import MaxPool2d


@pytest.fixture
def sparse_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every candidate of the kernels be the faster one, without a clock."""

    def timed(layer: object, modules: dict[str, nn.Module], shape: object) -> dict[str, float]:
        return {name: float(name == "dense") + 1 for name in modules}

    monkeypatch.setattr("secateur.runtime.compiled.time_candidates", timed)


def randomised(model: nn.Module, height: int = 8) -> nn.Module:
    """Randomise all parameters and buffers, and zero most blocks of the layers between channels."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                scale = max(tensor[0].numel(), 1) ** -0.5 if tensor.dim() > 1 else 0.2
                centre = 1.0 if name.endswith(("running_var", "norm.weight", "bn1.weight")) else 0.0
                tensor.copy_(centre + scale * torch.randn(tensor.shape, generator=rng).clamp(-2, 2))
        for module in model.modules():
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
                rows, columns = len(module.weight), module.weight[0].numel()
                kept = blocked(rows, columns, height, 0.8, rng) != 0
                module.weight *= 2 * kept.reshape(module.weight.shape)
    return model.eval()


def images(batch: int, size: int = 32) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))


NETWORKS = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),  # hard-swish, gates
    "efficientnet": lambda: timm.create_model("efficientnet_lite0", num_classes=10),  # relu6, depthwise
    "convnext": lambda: timm.create_model(
        "convnext_atto", num_classes=10
    ),  # gelu, linear layers, layer scale
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10),
}


@pytest.mark.usefixtures("sparse_wins")
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = randomised(NETWORKS[name]())
    fast = runtime.compile(model, images(2), folder=tmp_path)
    assert sum(choice.kernel == "8x1" for choice in fast.choices) >= 10
    for batch in (2, 1, 5):
        with torch.inference_mode():
            expected = model(images(batch))
        found = fast(images(batch))
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


@pytest.mark.usefixtures("sparse_wins")
@pytest.mark.parametrize("name", ["resnet18", "efficientnet"])
def test_each_layer_is_one_call(name: str, tmp_path: Path) -> None:
    """No norm, activation or sum that a layer takes in is left, and none is computed beside its replacement."""
    fast = runtime.compile(randomised(NETWORKS[name]()), images(2), folder=tmp_path)
    assert isinstance(fast.program, GraphModule)
    left = {str(n.target) for n in fast.program.graph.nodes if n.op == "call_function"}
    assert not {target for target in left if any(op in target for op in ("conv", "linear", "norm", "relu"))}
    assert not any("add" in target for target in left)
    inside = [*fast.program.modules()]
    calls = [n for n in fast.program.graph.nodes if n.op == "call_module"]
    layers = [m for m in inside if isinstance(m, SparseConv2d | SparseLinear | choose.Dense)]
    pools = [m for m in inside if isinstance(m, MaxPool2d)]
    chained = [len(m.layers) - 1 for m in inside if isinstance(m, Chain)]
    assert len(layers) == len(fast.choices)
    assert len(calls) == len(layers) + len(pools) - sum(chained)
    assert len(calls) < 3 or name != "resnet18", "the network up to its last pooling is one call"
    assert len(pools) == (name == "resnet18")


class Normed(nn.Module):
    """Norms that can be folded, one of them behind a linear layer, and two that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3, bias=False), nn.Linear(16, 16), nn.Linear(16, 16)
        self.norms = nn.ModuleList(
            [nn.BatchNorm2d(16), nn.BatchNorm1d(16), nn.BatchNorm1d(30), nn.BatchNorm1d(16)]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norms[0](self.a(x)))
        x = torch.relu(self.norms[1](self.b(x.mean((2, 3)))))
        y = self.norms[2](self.c(x[:, None].expand(-1, 30, -1)))  # over tokens, not over the layer's outputs
        z = self.b(x)
        return torch.sigmoid(self.norms[3](z)) + z + y.mean(1)  # read twice


@pytest.mark.usefixtures("sparse_wins")
def test_norms_are_folded_where_they_can_be(tmp_path: Path) -> None:
    model = randomised(Normed())
    fast = runtime.compile(model, images(2), folder=tmp_path)
    assert isinstance(fast.program, GraphModule)
    calls = [str(n.target) for n in fast.program.graph.nodes if n.op == "call_function"]
    assert sum("batch_norm" in call for call in calls) == 2
    with torch.inference_mode():
        torch.testing.assert_close(fast(images(3)), model(images(3)), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("sparse_wins")
def test_keyword_inputs_of_a_language_model(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=100
    )
    model = randomised(transformers.BertModel(config))
    inputs = {
        "input_ids": torch.arange(24).reshape(2, 12),
        "attention_mask": torch.ones(2, 12, dtype=torch.long),
    }
    fast = runtime.compile(model, inputs, folder=tmp_path)
    assert sum(choice.kernel == "8x1" for choice in fast.choices) >= 12
    with torch.inference_mode():
        expected = model(**inputs)
    found = fast(**inputs)
    assert type(found) is type(expected)
    error = (found.last_hidden_state - expected.last_hidden_state).abs().max()
    assert float(error / expected.last_hidden_state.abs().max()) < 1e-4


class Shared(nn.Module):
    """A convolution that is read twice, a sum behind an activation, and writes into tensors between the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = torch.relu(a)
        c = self.norm(self.b(b))
        b.mul_(2)  # what was read above must not be this
        c = torch.nn.functional.silu(c) + b
        c += a
        return torch.nn.functional.hardtanh(c, -1, 1)


@pytest.mark.usefixtures("sparse_wins")
def test_what_others_read_is_not_fused_away(tmp_path: Path) -> None:
    model = randomised(Shared(), height=4)
    fast = runtime.compile(model, images(2), folder=tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(fast(images(3)), model(images(3)), rtol=1e-4, atol=1e-5)
    assert model.state_dict().keys() == Shared().state_dict().keys()


def test_choices_follow_the_clock_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomised(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)))
    calls = []

    def timed(layer: object, modules: dict[str, nn.Module], shape: list[int]) -> dict[str, float]:
        calls.append(shape)
        return {name: 1.0 + (name != "dense") for name in modules}

    monkeypatch.setattr("secateur.runtime.compiled.time_candidates", timed)
    x = torch.ones(4, 64)
    fast = runtime.compile(model, x, folder=tmp_path)
    assert [c.kernel for c in fast.choices] == ["dense", "dense"]
    assert calls == [[4, 64], [4, 64]]
    runtime.compile(model, x, folder=tmp_path)
    assert len(calls) == 2  # the second time they are known
    text = repr(fast)
    assert "dense 1.000, 8x1 2.000" in text
    with pytest.raises(KernelError, match="for inference"):
        fast.train()


def test_times_are_positive() -> None:
    layer = next(iter(_layers(nn.Linear(64, 64))))
    took = choose.time_candidates(layer, choose.candidates(layer), [3, 64])
    assert set(took) == {"dense", "16x1"}  # kernels are tried on weights without zeros, too
    assert min(took.values()) > 0


def test_large_dense_layers_are_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "LARGE", 64 * 64)
    assert set(choose.candidates(next(iter(_layers(nn.Linear(64, 64)))))) == {"dense"}


def _layers(model: nn.Module) -> list[fuse.FusedLayer]:
    exported = torch.export.export(model, (torch.ones(3, 64),)).run_decompositions({})
    return list(fuse.find_layers(exported.module(check_guards=False)))


@pytest.mark.usefixtures("sparse_wins")
def test_unified_layers_are_found(tmp_path: Path) -> None:
    layer = nn.Linear(64, 32)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.sign() * 0.1)
    fast = runtime.compile(layer.eval(), torch.ones(3, 64), folder=tmp_path)
    assert "unified 1x4" in fast.choices[0].ms


def test_without_kernels_all_is_dense(tmp_path: Path, forced: pytest.MonkeyPatch) -> None:
    forced.setenv(VARIABLE, "none")
    model = randomised(nn.Sequential(nn.Linear(64, 64), nn.ReLU()))
    fast = runtime.compile(model, torch.ones(4, 64), folder=tmp_path)
    assert [c.kernel for c in fast.choices] == ["dense"]
    assert "layers run dense" in repr(fast)


@pytest.mark.usefixtures("sparse_wins")
def test_a_compiled_network_is_exported(tmp_path: Path) -> None:
    model = randomised(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 8)))
    fast = runtime.compile(model, images(2, 8), folder=tmp_path)
    with torch.no_grad():
        exported = torch.export.export(fast, (images(2, 8),))
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    assert torch.equal(torch.export.load(buffer).module()(images(2, 8)), fast(images(2, 8)))


def test_inputs_are_checked_once_for_each_form(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    fast = runtime.compile(model, torch.ones(2, 8), folder=tmp_path)
    for batch in (2, 5, 2, 5):
        x = torch.randn(batch, 8)
        with torch.inference_mode():
            torch.testing.assert_close(fast(x), model(x))
    for bad in (torch.ones(2, 7), torch.ones(2, 8, dtype=torch.float64)):
        for _ in range(2):
            with pytest.raises((RuntimeError, KernelError)):
                fast(bad)


def test_a_compiled_network_is_copied_but_not_pickled() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    x = torch.randn(3, 8)
    fast = runtime.compile(model, x)
    assert torch.equal(copy.deepcopy(fast)(x), fast(x))
    with pytest.raises(KernelError, match=r"cannot be pickled.*Remedy"):
        pickle.dumps(fast)
