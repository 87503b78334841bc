"""Streamed moments against a direct computation in float64 on stored activations."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.graph import Graph, Layer, trace
from secateur.ground.errors import CalibrationError
from secateur.statistics import Calibration, Forward, Statistics, collect
from secateur.statistics.outlets import affine, outlet
from secateur.statistics.patches import Rows, read_rows


class Strided(nn.Module):
    """A value that a 3 x 3 convolution and a strided 1 x 1 read, then a depthwise-separable tail."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.a = nn.Conv2d(6, 4, 3, 2, 1, bias=False)
        self.b = nn.Conv2d(6, 4, 1, 2, bias=False)
        self.bn_a, self.bn_b = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.bn_a(self.a(x)) + self.bn_b(self.b(x)))
        return self.last(torch.relu(self.grouped(x))).mean((2, 3))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


def strided(n: int = 11) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Strided().eval(), torch.randn(n, 2, 6, 6)


def tokens(n: int = 11) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Tokens().eval(), torch.randn(n, 5, 4)


def gathered(model: nn.Module, x: Tensor, **options: Any) -> tuple[Graph, Statistics]:
    graph = trace(model, x[:2])
    return graph, collect(graph, graph.groups, x.split(4), **options)


def held_out(graph: Graph, x: Tensor) -> Tensor:
    held = torch.cat([mask for _, mask in Calibration(x.split(4), graph.program).held_out()])
    assert 0 < int(held.sum()) < len(x)
    return held


def read(model: nn.Module, x: Tensor, module: str) -> Tensor:
    """Return the input of a module in float64."""
    double = copy.deepcopy(model).double()
    seen: list[Tensor] = []
    double.get_submodule(module).register_forward_hook(lambda m, args, y: seen.append(args[0]))
    with torch.no_grad():
        double(x.double())
    return seen[0]


def layer_of(graph: Graph, module: str) -> Layer:
    return next(layer for layer in graph.layers if layer.module == module)


def tap_columns(layer: Layer, x: Tensor) -> Tensor:
    """Return (samples, everything that any tap reads, channels): rows of zero padding change no moment sum."""
    if not layer.taps:
        return x.reshape(len(x), -1, x.shape[-1])
    kernel = layer.taps
    columns = F.unfold(x, kernel, layer.dilation, layer.padding, layer.stride)
    return columns.view(len(x), x.shape[1], -1).transpose(1, 2)


def inside(layer: Layer, x: Tensor) -> float:
    """Return how many reads of a sample are of the input, and not of padding."""
    return float(tap_columns(layer, torch.ones_like(x[:1])).sum()) / x.shape[-1 if not layer.taps else 1]


@pytest.mark.parametrize(
    ("make", "module"), [(strided, "a"), (strided, "b"), (strided, "last"), (tokens, "down")]
)
def test_channel_moments_are_those_of_all_that_is_read(make: Any, module: str) -> None:
    model, x = make()
    graph, statistics = gathered(model, x)
    layer = layer_of(graph, module)
    values = read(model, x, module)
    rows, per_sample = tap_columns(layer, values), inside(layer, values)
    held = held_out(graph, x)
    site = statistics.sites[layer.node]
    for part, chosen in ((site.fit, ~held), (site.held, held)):
        flat = rows[chosen].reshape(-1, rows.shape[-1])
        torch.testing.assert_close(
            part, flat.T @ flat / (per_sample * int(chosen.sum())), atol=1e-5, rtol=1e-4
        )
    torch.testing.assert_close(site.mean, rows.sum((0, 1)) / (per_sample * len(x)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n", [1, 4, 5, 11, 16])
def test_fit_and_held_add_up_to_the_whole(n: int) -> None:
    model, x = tokens(n)
    graph, statistics = gathered(model, x)
    values = read(model, x, "down").reshape(-1, 7)
    gram = statistics.sites[layer_of(graph, "down").node].gram
    torch.testing.assert_close(gram, values.T @ values / len(values), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("held", [False, True])
def test_where_all_samples_are_on_one_side_both_sides_are_the_same(held: bool) -> None:
    model, x = tokens(64)
    graph = trace(model, x[:2])
    (_, mask), *_ = Calibration([x], graph.program).held_out()
    few = x[mask == held][:3]
    statistics = collect(graph, graph.groups, [few])
    site = statistics.sites[layer_of(graph, "down").node]
    values = read(model, few, "down").reshape(-1, 7)
    assert torch.equal(site.fit, site.held)
    torch.testing.assert_close(site.fit, values.T @ values / len(values), atol=1e-5, rtol=1e-4)
    assert statistics.samples == 3


@pytest.mark.parametrize("module", ["a", "b", "grouped", "last"])
def test_patch_moments_are_those_of_all_patches(module: str) -> None:
    model, x = strided()
    model = nn.Sequential(model)
    graph, statistics = gathered(model, x, patches=True)
    layer = layer_of(graph, f"0.{module}")
    if layer.node not in statistics.sites:  # nothing that it reads can be pruned
        assert module == "grouped"
        return
    moments = statistics.sites[layer.node].patches
    assert moments is not None
    rows = read_rows(layer, read(model, x, f"0.{module}"), Rows(None))
    rows = torch.cat([rows, torch.ones(*rows.shape[:2], 1)], 2)
    torch.testing.assert_close(moments, rows.mT @ rows / rows.shape[1], atol=1e-5, rtol=1e-4)


def test_values_that_are_read_alike_are_summed_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(4, 6)
            self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x))
            return self.a(x) + torch.tanh(self.b(x))

    torch.manual_seed(0)
    x = torch.randn(9, 4)
    graph, statistics = gathered(Twice().eval(), x)
    assert len(statistics.sites) == 2
    assert len({id(site) for site in statistics.sites.values()}) == 1
    model, images = strided()
    graph, statistics = gathered(model, images)
    a, b = (statistics.sites[layer_of(graph, m).node] for m in "ab")
    assert a is not b  # the same value under different windows


def test_power_is_that_of_the_value_in_which_the_output_counts() -> None:
    model, x = strided()
    graph, statistics = gathered(model, x)
    double = copy.deepcopy(model).double()
    with torch.no_grad():
        stem = torch.relu(double.stem(x.double()))
        joined = double.bn_a(double.a(stem)) + double.bn_b(double.b(stem))
        last = double.last(read(model, x, "last"))
    for module, value in (("a", joined), ("b", joined), ("last", last)):
        expected = value.transpose(0, 1).flatten(1).var(1, unbiased=False).sum()
        assert statistics.power[layer_of(graph, module).node] == pytest.approx(float(expected), rel=1e-4)


def test_statistics_do_not_depend_on_the_batches() -> None:
    model, x = strided(12)
    graph = trace(model, x[:2])
    one, many = (collect(graph, graph.groups, x.split(n)) for n in (12, 5))
    for node, site in one.sites.items():
        torch.testing.assert_close(site.fit, many.sites[node].fit, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(site.held, many.sites[node].held, atol=1e-6, rtol=1e-5)
        assert one.power[node] == pytest.approx(many.power[node], rel=1e-4)


def test_windows_and_tokens_folded_into_the_batch() -> None:
    class Windows(nn.Module):
        """As window attention does: pieces of a sample become samples."""

        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 7), nn.Linear(7, 4)

        def forward(self, x: Tensor) -> Tensor:
            n, t, c = x.shape
            y = x.reshape(n * 2, t // 2, c)
            return self.down(torch.relu(self.up(y))).reshape(n, t, c)

    torch.manual_seed(0)
    model, x = Windows().eval(), torch.randn(11, 6, 4)
    graph, statistics = gathered(model, x, patches=True)
    values = read(model, x, "down")
    held = held_out(graph, x).repeat_interleave(2)
    site = statistics.sites[layer_of(graph, "down").node]
    for part, chosen in ((site.fit, ~held), (site.held, held)):
        flat = values[chosen].reshape(-1, 7)
        torch.testing.assert_close(part, flat.T @ flat / len(flat), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_activations_that_are_not_finite(value: float) -> None:
    model, x = tokens()
    with torch.no_grad():
        model.get_parameter("up.weight").fill_(value)
    graph = trace(model, x[:2])
    with pytest.raises(CalibrationError, match=r"down .*not finite"):
        collect(graph, graph.groups, [x])


def test_empty_data_are_refused() -> None:
    model, x = tokens()
    graph = trace(model, x[:2])
    with pytest.raises(CalibrationError, match="empty"):
        collect(graph, graph.groups, [])


def test_no_group_needs_no_sites() -> None:
    model, x = tokens()
    graph = trace(model, x[:2])
    assert collect(graph, (), [x]).sites == {}


def test_outlets() -> None:
    model, x = strided()
    graph = trace(model, x[:2])
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    a = outlet(graph, layer_of(graph, "a"))
    b = outlet(graph, layer_of(graph, "b"))
    last = outlet(graph, layer_of(graph, "last"))
    assert a.join == b.join is not None
    assert {a.operand, b.operand} == {0, 1}
    assert last.join is None
    assert last.batch_norm is None
    y = torch.randn(2, 4, 3, 3)
    with torch.no_grad():
        model.bn_a.weight.normal_()
        model.bn_a.bias.normal_()
        model.bn_a.running_mean.normal_()
        map_ = affine(a.batch_norm, graph, tensors)
        assert map_ is not None
        made = y * map_.scale.view(-1, 1, 1) + map_.shift.view(-1, 1, 1)
        torch.testing.assert_close(made, model.bn_a(y))


@pytest.mark.parametrize("make", [strided, tokens])
@pytest.mark.parametrize("memory", [1, 2000])
@pytest.mark.parametrize("patches", [False, True])
def test_in_parts_the_moments_are_the_same(make: Any, memory: int, patches: bool) -> None:
    model, x = make()
    _, whole = gathered(model, x, patches=patches)
    _, parts = gathered(model, x, patches=patches, memory=memory)
    assert parts.samples == whole.samples
    forwards = list(whole.sites)
    for node in (*forwards, *reversed(forwards), forwards[0]):  # going back starts again
        ours, theirs = parts.sites[node], whole.sites[node]
        for field in ("fit", "held", "gram", "mean"):
            torch.testing.assert_close(getattr(ours, field), getattr(theirs, field), rtol=1e-12, atol=1e-12)
        assert (ours.patches is None) == (theirs.patches is None)
        if ours.patches is not None and theirs.patches is not None:
            torch.testing.assert_close(ours.patches, theirs.patches, rtol=1e-12, atol=1e-12)
        assert parts.power[node] == pytest.approx(whole.power[node], rel=1e-9)
    assert set(parts.sites) == set(whole.sites)


@pytest.mark.parametrize("at", [0, -1])
def test_released_moments_are_summed_again(at: int) -> None:
    model, x = strided()
    for memory in (1, 1 << 31):
        _, found = gathered(model, x, memory=memory)
        node = list(found.sites)[at]
        before = found.sites[node]
        found.release()
        assert (found.sites[node] is before) == (memory > 1)  # only what is summed in parts is forgotten
        torch.testing.assert_close(found.sites[node].gram, before.gram, rtol=0, atol=0)


def test_parts_in_order_cost_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = tokens()
    graph = trace(model, x[:2])
    ran: list[range] = []
    walk = Forward._walk

    def counted(self: Forward, inputs: Any, before: Any, start: int, stop: int, *rest: Any) -> Any:
        ran.append(range(start, stop))
        return walk(self, inputs, before, start, stop, *rest)

    monkeypatch.setattr(Forward, "_walk", counted)
    found = collect(graph, graph.groups, [x], layers=[layer.node for layer in graph.layers], memory=1)
    for node in found.sites:
        assert torch.isfinite(found.sites[node].gram).all()
        assert found.power[node] > 0
    places = [place for stretch in ran for place in stretch]
    assert len(ran) > 2
    assert places == list(range(len(places)))


class Written(nn.Module):
    """An RMSNorm as decoders write it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        size = x.float().pow(2).mean(-1, keepdim=True)
        return self.weight * (x.float() * torch.rsqrt(size + 1e-6)).to(x.dtype)


class Stream(nn.Module):
    """A residual sum that a norm reads, or nothing but a linear layer."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.up, self.down, self.norm, self.head = nn.Linear(8, 16), nn.Linear(16, 8), norm, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x + self.down(self.up(x).relu())))


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.RMSNorm(8), Written(), nn.Identity()])
def test_where_a_norm_follows_power_is_relative_to_each_position(norm: nn.Module) -> None:
    """One position of a thousand times the size does not make every error look small."""
    torch.manual_seed(0)
    model = Stream(norm).eval()
    x = torch.randn(32, 5, 8)
    x[:, 0] *= 1000
    graph = trace(model, x[:2])
    node = layer_of(graph, "down").node
    with torch.no_grad():
        squares = (x + model.down(model.up(x).relu())).double().square().sum(-1)
    power = collect(graph, graph.groups, x.split(16)).power[node]
    if isinstance(norm, nn.Identity):
        assert power > 0.1 * float(squares.mean())
    else:
        assert power == pytest.approx(float(1 / (1 / squares).mean()), rel=1e-4)
        assert power < 1e-3 * float(squares.mean())
