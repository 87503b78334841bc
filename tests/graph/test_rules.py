"""Rules, one operator family at a time, by what is left to prune."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.graph import Graph, trace
from secateur.graph.context import Context
from secateur.graph.labels import Value, varying
from secateur.graph.rules import RULES


class Between(nn.Module):
    """A function between a convolution of 8 channels and one that reads what it makes."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int) -> None:
        super().__init__()
        self.function = function
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def units(function: Callable[[Tensor], Tensor], channels: int = 8) -> list[int]:
    graph = trace(Between(function, channels), torch.zeros(2, 3, 4, 4))
    assert not graph._analysis.missing
    return [g.size for g in graph.groups]


@pytest.mark.parametrize(
    ("function", "channels", "expected"),
    [
        (lambda x: F.max_pool2d(x, 2), 8, [8]),
        (lambda x: F.adaptive_avg_pool2d(x, 1), 8, [8]),
        (lambda x: F.interpolate(x, scale_factor=2), 8, [8]),
        (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), 8, [8]),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), 8, [8]),
        (lambda x: F.pixel_shuffle(x, 2), 2, [2]),
        (lambda x: F.pixel_unshuffle(x, 2), 32, [8]),
        (lambda x: F.channel_shuffle(x, 2), 8, [4]),
        (lambda x: F.group_norm(x, 4), 8, [4]),
        (lambda x: F.group_norm(x, 1), 8, []),
        (lambda x: F.instance_norm(x), 8, [8]),
        (lambda x: F.rms_norm(x, x.shape[1:]), 8, []),
        (lambda x: F.layer_norm(x, x.shape[-2:]), 8, [8]),
        (lambda x: F.glu(x, 1), 4, [4]),
        (lambda x: torch.cat([x, x], 1), 16, [8]),
        (lambda x: torch.cat([x, x[:, :2] * 0 + 1], 1), 10, [8]),
        (lambda x: torch.cat([x, torch.ones(2, 2, 4, 4)], 1), 10, [8]),
        (lambda x: torch.cat(x.split([3, 5], 1)[::-1], 1), 8, [8]),
        (lambda x: torch.cat(x.split(3, 1), 1), 8, []),
        (lambda x: torch.cat(x.chunk(4, 1)[:2], 1), 4, [2]),
        (lambda x: x.unflatten(1, (2, 4)).flatten(1, 2), 8, [4]),
        (lambda x: x.unflatten(1, (2, 4)).sum(1), 4, [4]),
        (lambda x: x.unflatten(1, (2, 4)).unbind(1)[1], 4, [4]),
        (lambda x: x.repeat(1, 2, 1, 1), 16, [8]),
        (lambda x: x.repeat_interleave(2, 1), 16, [8]),
        (lambda x: x.movedim(1, -1).movedim(-1, 1), 8, [8]),
        (lambda x: x.flip(1).roll(3, 1), 8, [8]),
        (lambda x: F.pad(x, (1, 1, 1, 1, 2, 0)), 10, [8]),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 8, [8]),
        (lambda x: x.narrow(1, 2, 3), 3, [5, 3]),
        (lambda x: x.index_select(1, torch.tensor([0, 2])), 2, []),
        (lambda x: x * x.amax((2, 3), keepdim=True), 8, [8]),
        (lambda x: x / x.norm(dim=1, keepdim=True), 8, []),
        (lambda x: F.unfold(x, 3, padding=1).view(2, 72, 4, 4), 72, [8]),
        (lambda x: F.fold(F.unfold(x, 3, padding=1), (4, 4), 3, padding=1), 8, [8]),
        (lambda x: torch.where(x > 0, x, -x), 8, [8]),
        (lambda x: x.sort(1)[0], 8, []),
        (lambda x: x.softmax(2), 8, [8]),
        (lambda x: torch.einsum("bchw,bchw->bchw", x, x), 8, [8]),
        (lambda x: x.diff(dim=2), 8, [8]),
        (lambda x: x.unfold(2, 2, 2).mean(-1), 8, [8]),
        (lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2).unflatten(2, (4, 4)), 8, [8]),
    ],
)
def test_units_that_are_left(
    function: Callable[[Tensor], Tensor], channels: int, expected: list[int]
) -> None:
    assert units(function, channels) == expected


def test_no_tensor_may_become_empty() -> None:
    """A size-1 piece that belongs to one unit would vanish with it, so that unit stays."""
    assert units(lambda x: x * x[:, :1]) == [7]
    assert units(lambda x: torch.cat([x[:, 1:], x[:, :1].tanh()], 1)) == [7]
    assert units(lambda x: x + x.select(1, 3).unsqueeze(1)) == [7]


def test_each_iteration_over_a_parameter_freezes_it() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(3, 4), nn.Linear(4, 2)
            self.bias = nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc1(x)
            return self.fc2(torch.stack([x[:, i] + self.bias[i] for i in range(4)], 1))

    assert trace(Loop(), torch.zeros(2, 3)).groups == ()


def test_batch_statistics_of_a_weight_freeze_what_they_normalise() -> None:
    class Standardised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 3)
            self.last = nn.Conv2d(5, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            weight = self.conv2.weight.reshape(1, 5, -1)
            weight = F.batch_norm(weight, None, None, training=True).reshape(5, 6, 3, 3)
            return self.last(F.conv2d(self.conv1(x), weight, self.conv2.bias))

    graph = trace(Standardised(), torch.zeros(2, 3, 6, 6))
    assert [(g.id, g.size) for g in graph.groups] == [("conv2", 5)]


def test_heads_in_the_batch_of_a_depthwise_convolution_stay_whole() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
            self.pool = nn.Conv2d(4, 4, 3, padding=1, groups=4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            x = self.pool(x.reshape(-1, 4, 4, 4))
            return self.last(x.reshape(-1, 8, 4, 4))

    graph = trace(Folded(), torch.zeros(3, 3, 4, 4))
    assert all(f.parameter != "pool.weight" or f.dim == 0 for f in graph.frozen)
    (group,) = graph.groups
    assert group.size == 2
    assert group.owner("last.weight", 1) == (0,) * 4 + (1,) * 4


def test_transposed_convolutions_swap_the_dimensions_of_their_weight() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 1), nn.ConvTranspose1d(4, 6, 2), nn.ReLU(), nn.Conv1d(6, 2, 1))
    graph: Graph = trace(model, torch.zeros(2, 2, 5))
    first, second = graph.groups
    assert (first.consumers[0].parameter, first.consumers[0].dim) == ("1.weight", 0)
    assert (second.producers[0].parameter, second.producers[0].dim) == ("1.weight", 1)
    assert graph.shapes({"0": (1,), "1": (0, 2)})["1.weight"] == (1, 2, 2)
    assert graph.macs({"0": (1,), "1": (0, 2)})[second.producers[0].node] == 5 * 1 * 2 * 2


@pytest.mark.parametrize(
    ("groups", "outputs", "expected"),
    [(1, 6, [8, 6]), (2, 6, [4, 3]), (4, 4, [4]), (4, 12, [4]), (8, 16, [8]), (8, 8, [8])],
)
def test_groups_of_transposed_convolutions(groups: int, outputs: int, expected: list[int]) -> None:
    """Whole groups go, or the same position of every group, as in a convolution that is not transposed."""
    model = nn.Sequential(
        nn.Conv1d(2, 8, 1), nn.ConvTranspose1d(8, outputs, 2, groups=groups), nn.Conv1d(outputs, 2, 1)
    )
    graph = trace(model, torch.zeros(2, 2, 5))
    assert [g.size for g in graph.groups] == expected
    assert not graph._analysis.missing
    kept = {g.id: tuple(range(g.size - 1)) for g in graph.groups}
    shapes, (width, height) = graph.shapes(kept), (len(kept["0"]), expected[-1] - 1)
    if len(expected) == 2:
        assert shapes["1.weight"] == (groups * width, height, 2)
    else:
        assert shapes["1.weight"] == (width * 8 // groups, outputs // groups, 2)


def test_products_with_parameters_are_layers() -> None:
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(6, 8)), nn.Parameter(torch.ones(7, 8))
            self.c, self.bias = nn.Parameter(torch.ones(7, 5)), nn.Parameter(torch.ones(5))

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(x @ self.a) @ self.b.t()
            return torch.addmm(self.bias, torch.relu(x), self.c)

    graph = trace(Products(), torch.zeros(2, 6))
    found = [(layer.weight, layer.in_dim, layer.position, layer.bias) for layer in graph.layers]
    assert found == [("a", 0, 0, None), ("b", 1, 0, None), ("c", 0, 1, "bias")]
    assert [(g.id, g.size, g.consumers[0].dim) for g in graph.groups] == [("a", 8, 1), ("b", 7, 0)]
    assert graph.macs({"a": (0, 1), "b": (2,)}) == dict(
        zip((layer.node for layer in graph.layers), (12, 2, 5), strict=True)
    )


def test_grouped_queries_share_the_heads_of_keys_and_values() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (
                nn.Linear(6, 12),
                nn.Linear(6, 6),
                nn.Linear(6, 6),
                nn.Linear(12, 6),
            )

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (f(x).unflatten(-1, (-1, 3)).transpose(1, 2) for f in (self.q, self.k, self.v))
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, is_causal=True)
            return self.o(y.transpose(1, 2).flatten(2))

    (group,) = trace(Grouped(), torch.zeros(2, 5, 6)).groups
    assert (group.kind, group.size) == ("head", 2)
    assert group.owner("q.weight", 0) == (0,) * 6 + (1,) * 6
    assert group.owner("k.weight", 0) == (0,) * 3 + (1,) * 3


def test_embedding_columns_are_units_and_rows_are_not() -> None:
    model = nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2))
    graph = trace(model, torch.zeros(2, 4, dtype=torch.long))
    assert [(g.id, g.size) for g in graph.groups] == [("0", 6), ("1", 3)]
    assert graph.group("0").producers == ()
    assert {(f.parameter, f.dim) for f in graph.frozen} == {("0.weight", 0), ("3.weight", 0), ("3.bias", 0)}


def test_names_in_the_table_are_families() -> None:
    assert all(name == name.strip() and "." not in name for name in RULES)
    assert all(not name.endswith("_") for name in RULES if not name.startswith("_"))
    assert all(rule.__doc__ for rule in RULES.values())


sizes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(sizes, st.data())
def test_reshaped_labels_are_those_of_the_reshaped_array(shape: list[int], data: st.DataObject) -> None:
    """What a reshape does to labels is what it does to an array of full size, up to what must be a grid."""
    dim = data.draw(st.integers(0, len(shape) - 1))
    total = prod(shape)
    target, rest = [], total
    while rest > 1 and len(target) < 3:
        target.append(data.draw(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0])))
        rest //= target[-1]
    target.append(rest)
    context = Context()
    labels = context.sets.fresh(shape[dim]).reshape([n if d == dim else 1 for d, n in enumerate(shape)])
    value = context.norm(Value(tuple(shape), (labels,)))
    viewed = context.view(value, tuple(target))
    literal = np.broadcast_to(context.find(labels), shape).reshape(target)
    assert viewed.shape == tuple(target)
    if not viewed.fields:
        assert shape[dim] == 1
        return
    assert np.array_equal(np.broadcast_to(viewed.fields[0], target), literal)
    context.settle([viewed])
    assert all(len(varying(f)) == 1 for f in context.norm(viewed).fields)
