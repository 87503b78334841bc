"""Which groups a run may prune, and why not the others."""

from typing import Any

import pytest
import torch
from models import SMALL
from torch import Tensor, nn

from secateur.graph import Graph, trace
from secateur.ground.errors import UnknownNameError
from secateur.surgery.candidates import candidates, tried
from secateur.zoo.models import BasicBlock, resnet20


def traced(name: str) -> tuple[nn.Module, Graph]:
    case = next(case for case in SMALL if case.name == name)
    model = case.model()
    return model, trace(model, case.inputs())


def ids(model: nn.Module, graph: Graph, exclude: Any = ()) -> set[str]:
    return {group.id for group in candidates(model, graph, exclude).groups}


def test_streams_stay_whole_and_branches_do_not() -> None:
    model, graph = traced("residual")
    chosen = candidates(model, graph)
    assert {g.id for g in chosen.groups} == {"a1", "a2"}
    assert chosen.refused == {
        "stem.0": "a residual stream: layers that read it add to it (streams=True lets it lose units)"
    }


def test_streams_lose_units_where_asked() -> None:
    model, graph = traced("residual")
    chosen = candidates(model, graph, streams=True)
    assert {g.id for g in chosen.groups} == {"stem.0", "a1", "a2"}
    assert not chosen.refused


def test_layers_whose_outputs_are_multiplied_are_no_stream() -> None:
    """Squeeze and excite: the gate and what it gates go together."""
    model, graph = traced("depthwise")
    group = next(g for g in graph.groups if g.id == "expand.0")
    assert len(group.producers) == 2
    assert ids(model, graph) == {"expand.0", "squeeze"}


class Conditioned(nn.Module):
    """A block of a diffusion U-Net: a condition scales and shifts its hidden map; the sum around it is a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.film, self.head = nn.Linear(5, 32), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.stem(x)
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, 1)
        return self.head(x + self.b(torch.relu(self.a(x) * (1 + scale) + shift)))


def test_what_is_added_for_once_is_no_stream() -> None:
    model = Conditioned().eval()
    graph = trace(model, torch.randn(2, 3, 4, 4), torch.randn(2, 5))
    assert ids(model, graph) == {"film"}  # and its units in `a`
    assert set(candidates(model, graph).refused) == {"stem"}


class Straight(nn.Module):
    """A single layer reads a stream and adds to it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stem, self.layer, self.head = nn.Conv2d(3, 8, 1), layer, nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.layer(x))


def test_a_layer_around_which_a_sum_goes_adds_to_what_it_reads() -> None:
    x = torch.randn(2, 3, 4, 4)
    full, depthwise = Straight(nn.Conv2d(8, 8, 1)).eval(), Straight(nn.Conv2d(8, 8, 1, groups=8)).eval()
    assert ids(full, trace(full, x)) == set()
    assert ids(depthwise, trace(depthwise, x)) == {"stem"}  # keeps the units apart: none reads another


@pytest.mark.parametrize(
    ("exclude", "gone"),
    [
        (("layer1.0.conv1",), {"layer1.0.conv1"}),
        (("layer1.*",), {"layer1.0.conv1", "layer1.1.conv1", "layer1.2.conv1"}),
        (("layer1",), {"layer1.0.conv1", "layer1.1.conv1", "layer1.2.conv1"}),
        (("*.1.conv1", "layer2.0"), {"layer1.1.conv1", "layer2.1.conv1", "layer3.1.conv1", "layer2.0.conv1"}),
        ((nn.Linear,), set()),
    ],
)
def test_exclusion_by_path(exclude: tuple[Any, ...], gone: set[str]) -> None:
    model = resnet20(width=0.25).eval()
    graph = trace(model, torch.zeros(2, 3, 8, 8))
    everything = ids(model, graph)
    assert len(everything) == 9
    assert everything - ids(model, graph, exclude) == gone
    refused = candidates(model, graph, exclude).refused
    assert all("is excluded" in refused[id] for id in gone)


def test_exclusion_by_type() -> None:
    model = resnet20(width=0.25).eval()
    graph = trace(model, torch.zeros(2, 3, 8, 8))
    assert ids(model, graph, [nn.Conv2d]) == set()
    assert ids(model, graph, [BasicBlock]) == set()
    assert len(ids(model, graph, [nn.BatchNorm2d])) == 9  # names no producer


def test_a_pattern_that_matches_nothing() -> None:
    model = resnet20(width=0.25).eval()
    graph = trace(model, torch.zeros(2, 3, 8, 8))
    with pytest.raises(UnknownNameError, match=r"'layer1\.0\.conv9'\. Did you mean 'layer1\.0\.conv"):
        candidates(model, graph, ["layer1.0.conv9"])


def test_code_that_asks_for_a_size_is_found_out_and_left() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            if x.shape[1] != 8:
                raise ValueError("eight, please")
            return self.c(torch.relu(self.b(x)))

    model = Stubborn().eval()
    graph = trace(model, torch.zeros(2, 4))
    chosen = candidates(model, graph)
    left = tried(model, graph, chosen)
    assert {g.id for g in left.groups} == {"b"}
    assert "a" in left.refused
