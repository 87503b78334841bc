"""Int8 layers as modules: a network that stays in bytes, copies, files, export, machines without kernels, refusals."""

from __future__ import annotations

import copy
import io
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.ground.errors import KernelError
from secateur.runtime import Activation
from secateur.runtime import dense as fallback
from secateur.runtime.geometry import Window
from secateur.runtime.int8 import (
    Int8MaxPool2d,
    Int8SparseConv2d,
    Int8SparseLinear,
    Int8Tensor,
    Levels,
    global_average,
    pack_int8,
    unpack_int8,
)
from secateur.runtime.int8.packing import check_int8
from secateur.runtime.int8.tables import activation_table
from secateur.runtime.library import VARIABLE

INPUT, HIDDEN, SIGNED = Levels(0.04, 128), Levels(0.03, 20), Levels(0.03, 128)
IMAGES = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def weight(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a weight, int8 with zero blocks of 4 x 4, and scales."""
    rng = torch.Generator().manual_seed(seed)
    keep = torch.rand(-(-shape[0] // 4), -(-shape[1] // 4), generator=rng) > (0.4 if shape[1] > 4 else 0.0)
    keep = keep.repeat_interleave(4, 0)[: shape[0]].repeat_interleave(4, 1)[:, : shape[1]]
    values = torch.randint(-127, 128, shape, generator=rng)
    fan = shape[1] * (shape[2] * shape[3] if len(shape) == 4 else 1)
    return (values * keep.view(*keep.shape, *[1] * (len(shape) - 2))).to(torch.int8), torch.full(
        shape[:1], 0.015 / fan**0.5
    )


class Network(nn.Module):
    """Convolutions with pooling, a residual sum, strides, a depthwise layer and a head that gives floats."""

    def __init__(self) -> None:
        super().__init__()
        three, same = Window((3, 3), padding=(1, 1, 1, 1)), {"x": HIDDEN, "y": HIDDEN}
        self.stem = Int8SparseConv2d.of(
            *weight(16, 3, 3, 3), three, x=INPUT, y=HIDDEN, activation=Activation.RELU
        )
        self.pool = Int8MaxPool2d(Window((2, 2), (2, 2)))
        self.one = Int8SparseConv2d.of(
            *weight(16, 16, 3, 3, seed=1), three, **same, activation=Activation.HARDSWISH
        )
        self.two = Int8SparseConv2d.of(
            *weight(16, 16, 3, 3, seed=2), three, **same, residual=HIDDEN, activation=Activation.RELU
        )
        self.deep = Int8SparseConv2d.of(
            *weight(16, 1, 3, 3, seed=3), replace(three, stride=(2, 2)), x=HIDDEN, y=SIGNED, groups=16
        )
        self.head = Int8SparseLinear.of(*weight(10, 16, seed=4), x=SIGNED, activation=Activation.GELU)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool(self.stem(Int8Tensor.of_images(images, INPUT)))
        x = self.deep(self.two(self.one(x), x))
        return self.head(global_average(x, SIGNED).features())


def floats(network: Network, images: Tensor) -> Tensor:
    """Return what the network computes in float32 from the same weights."""

    def conv(layer: Int8SparseConv2d, x: Tensor, stride: int = 1) -> Tensor:
        real = layer.weight().float() * 0.015 / fans[id(layer)] ** 0.5
        return F.conv2d(x, real, None, stride, 1)

    fans = {id(network.stem): 27, id(network.one): 144, id(network.two): 144, id(network.deep): 9}
    x = F.max_pool2d(conv(network.stem, images).relu(), 2)
    y = F.hardswish(conv(network.one, x))
    x = conv(network.deep, (conv(network.two, y) + x).relu(), 2)
    return F.gelu(x.mean((2, 3)) @ (network.head.weight().float() * 0.015 / 4).T)


@torch.inference_mode()
def test_a_network_stays_in_bytes_and_is_near_its_floats() -> None:
    network = Network()
    found, wanted = network(IMAGES), floats(network, IMAGES)
    assert found.shape == (3, 10)
    assert float((found - wanted).norm() / wanted.norm()) < 0.15
    assert torch.equal(network(IMAGES[:1]), found[:1])
    assert network(IMAGES[:0]).shape == (0, 10)


@torch.inference_mode()
def test_without_kernels_the_same_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network()
    found = network(IMAGES)
    monkeypatch.setenv(VARIABLE, "none")
    fallback.warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="layers run dense"):
        assert torch.equal(network(IMAGES), found)


@torch.no_grad()
def test_export_compile_and_reload() -> None:
    network = Network()
    expected = network(IMAGES)
    exported = torch.export.export(network, (IMAGES,))
    assert "secateur.sparse_int8_conv2d" in str(exported.graph)
    assert torch.equal(exported.module()(IMAGES), expected)
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    assert torch.equal(torch.export.load(buffer).module()(IMAGES), expected)
    assert torch.equal(torch.compile(network, fullgraph=True, backend="aot_eager")(IMAGES), expected)


@torch.no_grad()
def test_operators_are_what_torch_expects() -> None:
    layer, linear = Network().two, Network().head
    words = Int8Tensor.of_images(torch.randn(2, 16, 5, 5), HIDDEN).words
    packed, window = layer.packed, layer.window
    head = (
        packed.start,
        packed.column,
        packed.values,
        packed.bias,
        packed.multiplier,
        packed.ratio,
        packed.table,
    )
    sizes = (window.kernel, window.stride, window.padding, window.dilation)
    arguments = (words, *head, layer.whole, layer.limits, False, *sizes, words)
    torch.library.opcheck(torch.ops.secateur.sparse_int8_conv2d.default, arguments)
    packed = linear.packed
    head = (packed.start, packed.column, packed.values, packed.bias, packed.multiplier, None, None)
    words = Int8Tensor.of_features(torch.randn(2, 16), HIDDEN).words
    arguments = (words, *head, linear.whole, linear.limits, True)
    torch.library.opcheck(torch.ops.secateur.sparse_int8_linear.default, arguments)


@torch.inference_mode()
def test_copies_and_state() -> None:
    network = Network()
    expected = network(IMAGES)
    assert torch.equal(copy.deepcopy(network)(IMAGES), expected)
    fresh = Network()
    fresh(IMAGES)
    for name, buffer in fresh.named_buffers():
        if name.endswith(("bias", "multiplier")):
            buffer.zero_()
    assert not torch.equal(fresh(IMAGES), expected)
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(fresh(IMAGES), expected)
    assert " x 4, " in repr(network)


def test_round_trip() -> None:
    for groups, shape in ((1, (20, 7, 3, 2)), (4, (8, 3, 1, 3)), (1, (5, 33))):
        whole, scales = weight(*shape)
        for height in (4, 8, 16):
            packed = pack_int8(whole, scales, x=INPUT, groups=groups, height=height)
            check_int8(packed, whole[0, 0].numel())
            dense = unpack_int8(packed, tuple(shape[2:]))
            each, inputs = shape[0] // groups, shape[1]
            for g in range(groups):
                part = dense[g * each : (g + 1) * each, g * inputs : (g + 1) * inputs]
                assert torch.equal(part, whole[g * each : (g + 1) * each])
            assert int((dense != 0).sum()) == int((whole != 0).sum())


@pytest.mark.parametrize("activation", [Activation.SILU, Activation.GELU, Activation.HARDSWISH])
@pytest.mark.parametrize(
    "y", [Levels(0.02, 10), Levels(0.05, 0), Levels(0.03, 100, 127), Levels(0.01, 255)], ids=str
)
def test_tables_reach_every_level_that_the_activation_does(activation: Activation, y: Levels) -> None:
    pre, table = activation_table(activation, y)
    reals = torch.linspace(-30, max(30, 2 * y.reals[1]), 100001, dtype=torch.float64)
    wanted = ((fallback.ACTIVATIONS[activation](reals) / y.scale).round() + y.zero).clamp(0, y.most)
    level = ((reals / pre.scale).round() + pre.zero).clamp(0, 255).long()
    # Half a step in front of the activation, whose slope is at most 1.5, and half a step behind it.
    assert float((table[level] - wanted).abs().max()) <= 0.75 * pre.scale / y.scale + 1
    assert int(table.max()) == int(wanted.max())


def test_bad_input_is_refused() -> None:
    whole, scales = weight(8, 8)
    layer = Int8SparseLinear.of(whole, scales, x=INPUT, y=HIDDEN)
    x = Int8Tensor.of_features(torch.randn(2, 8), INPUT)
    with pytest.raises(KernelError, match=r"Remedy: requantised"):
        layer(Int8Tensor.of_features(torch.randn(2, 8), HIDDEN))
    with pytest.raises(KernelError, match="without a residual's levels"):
        layer(x, x)
    with pytest.raises(KernelError, match="8 inputs was packed"):
        layer(Int8Tensor.of_features(torch.randn(2, 12), INPUT))
    with pytest.raises(KernelError, match="no residual is given"):
        Int8SparseLinear.of(whole, scales, x=INPUT, y=HIDDEN, residual=HIDDEN)(x)
    for match, change in {
        "these kernels take int8": {"weight": whole.float()},
        "not divisible by 3 groups": {"groups": 3},
        "a float for each of": {"scales": scales[:3]},
        "not above 0": {"scales": -scales},
        "not finite": {"bias": torch.full((8,), torch.nan)},
        "Blocks of 5 x 4": {"height": 5},
        "beyond 32 bits": {"bias": torch.full((8,), 1e9)},
        "too many steps": {"y": Levels(1e-12, 0)},
    }.items():
        with pytest.raises(KernelError, match=match):
            pack_int8(**({"weight": whole, "scales": scales, "x": INPUT} | change))
    for bad in ({"scale": 0.0}, {"scale": torch.inf}, {"zero": 256}, {"most": 300}, {"most": 7, "zero": 8}):
        with pytest.raises(KernelError, match="Levels"):
            Levels(**({"scale": 1.0, "zero": 0} | bad))
    with pytest.raises(KernelError, match="Words of 5 channels"):
        Int8Tensor(torch.zeros(2, 8, dtype=torch.uint8), 5, INPUT, images=False)


@pytest.mark.parametrize("name", ["start", "column"])
def test_damaged_layers_are_refused(name: str) -> None:
    layer = Int8SparseLinear.of(*weight(8, 8), x=INPUT)
    state = layer.state_dict()
    state[name] = state[name].clone()
    state[name][-1] += 1 << 12
    layer.load_state_dict(state)
    with pytest.raises(KernelError, match="is damaged"):
        layer(Int8Tensor.of_features(torch.ones(1, 8), INPUT))
