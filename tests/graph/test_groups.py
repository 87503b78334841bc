"""Which groups come out of which network."""

from __future__ import annotations

import pytest
import torch
from models import SMALL, TORCHVISION, Dense, Depthwise, Grouped, Residual, Shared, conv
from torch import Tensor, nn

from secateur.graph import Graph, Group, trace
from secateur.ground.errors import SurgeryError, UnknownNameError
from secateur.zoo.models import resnet20

IMAGE = torch.zeros(1, 3, 8, 8)


def sites(group: Group) -> tuple[list[str], list[str]]:
    return [s.parameter for s in group.producers], [s.parameter for s in group.consumers]


def test_a_chain_has_one_group_between_each_pair_of_layers() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    graph = trace(model, torch.zeros(1, 5))
    assert [(g.id, g.size, g.kind) for g in graph.groups] == [("0", 8, "channel"), ("2", 6, "channel")]
    assert sites(graph.group("0")) == (["0.weight"], ["2.weight"])
    assert [(s.parameter, s.dim) for s in graph.group("2").slices] == [
        ("2.weight", 0),
        ("2.bias", 0),
        ("4.weight", 1),
    ]
    assert {(f.parameter, f.dim, f.reason) for f in graph.frozen} == {
        ("0.weight", 1, "is an input of the model"),
        ("4.weight", 0, "is an output of the model"),
        ("4.bias", 0, "is an output of the model"),
    }


def test_a_filter_before_flatten_owns_its_columns() -> None:
    model = nn.Sequential(conv(3, 4), nn.Flatten(), nn.Linear(4 * 49, 5), nn.ReLU(), nn.Linear(5, 2))
    graph = trace(model, torch.zeros(1, 3, 7, 7))
    group = graph.group("0.0")
    assert group.owner("2.weight", 1) == tuple(i // 49 for i in range(4 * 49))
    assert graph.surviving("2.weight", 1, {"0.0": (1, 3)}).tolist() == [*range(49, 98), *range(147, 196)]
    assert group.consumers[0].value_dim == 1


def test_resnet20_has_nine_inside_groups_and_three_streams() -> None:
    graph = trace(resnet20(), torch.zeros(1, 3, 32, 32))
    inside = {f"layer{s}.{b}.conv1": 16 * 2 ** (s - 1) for s in (1, 2, 3) for b in (0, 1, 2)}
    streams = {"conv1": 16, "layer2.0.conv2": 32, "layer3.0.conv2": 64}
    assert {g.id: g.size for g in graph.groups} == inside | streams
    assert {g.id for g in graph.groups if g.removable} == set(inside)
    order = [g.id for g in graph.groups]
    assert order[:3] == ["conv1", "layer1.0.conv1", "layer1.1.conv1"]
    assert order.index("layer2.0.conv1") < order.index("layer2.0.conv2") < order.index("layer2.1.conv1")
    made, read = sites(graph.group("layer2.0.conv2"))
    assert made == [
        "layer2.0.conv2.weight",
        "layer2.0.shortcut.0.weight",
        "layer2.1.conv2.weight",
        "layer2.2.conv2.weight",
    ]
    assert read == [
        "layer2.1.conv1.weight",
        "layer2.2.conv1.weight",
        "layer3.0.conv1.weight",
        "layer3.0.shortcut.0.weight",
    ]
    assert graph.frozen[0].parameter == "conv1.weight"


def test_concatenated_layers_stay_groups_of_their_own() -> None:
    graph = trace(Dense(), IMAGE)
    assert {g.id: g.size for g in graph.groups} == {"stem": 4, "layers.0": 3, "layers.1": 3, "layers.2": 3}
    assert graph.group("layers.1").owner("fc.weight", 1) == (-1,) * 7 + (0, 1, 2) + (-1,) * 3
    kept = {"stem": (3,), "layers.1": (0, 2)}
    assert graph.surviving("fc.weight", 1, kept).tolist() == [3, 4, 5, 6, 7, 9, 10, 11, 12]
    assert graph.shapes(kept)["layers.2.weight"] == (3, 6, 3, 3)


def test_depthwise_channels_pass_through() -> None:
    graph = trace(Depthwise(), IMAGE)
    group = graph.group("expand.0")
    assert group.kind == "channel"
    assert sites(group) == (["expand.0.weight", "excite.weight"], ["squeeze.weight", "project.weight"])
    assert ("depthwise.0.weight", 0) in {(s.parameter, s.dim) for s in group.slices}
    kept = {"expand.0": (0, 4)}
    assert graph.shapes(kept)["depthwise.0.weight"] == (2, 1, 3, 3)
    assert "depthwise.0" not in {g.id for g in graph.groups}


def test_grouped_convolutions_lose_groups_or_positions() -> None:
    graph = trace(Grouped(), IMAGE)
    many = graph.group("stem.0")
    assert (many.kind, many.size) == ("conv-group", 6)
    assert many.owner("many.0.weight", 0) == tuple(i // 2 for i in range(12))
    assert sites(many) == (["stem.0.weight"], ["middle.0.weight"])
    few = graph.group("middle.0")
    assert (few.kind, few.size) == ("channel", 6), "two groups of six: the same position of both"
    assert few.owner("few.0.weight", 1) == tuple(range(6))
    assert few.owner("middle.0.weight", 0) == tuple(range(6)) * 2
    out = graph.group("few.0")
    assert out.owner("last.weight", 1) == tuple(range(6)) * 2
    reasons = {(f.parameter, f.dim): f.reason for f in graph.frozen}
    assert "group_norm" in reasons["last.weight", 0]


def test_residual_branches_and_in_place_addition() -> None:
    graph = trace(Residual(), IMAGE)
    assert {g.id: g.removable for g in graph.groups} == {"stem.0": False, "a1": True, "a2": True}
    branch = graph.branch("a2")
    assert branch is not None
    modules = {n.name: n.module for n in graph.program.nodes}
    assert [modules[n] for n in branch.constants] == ["b2"]
    assert [modules[n] for n in branch.dead] == ["a2", "bn_a", "relu"]
    assert graph.program.node(branch.join).op == "add"
    assert graph.program.node(branch.join).overload == "aten.add_.Tensor"
    assert graph.branch("stem.0") is None


def test_without_its_branch_a_graph_costs_less() -> None:
    graph = trace(Residual(), IMAGE)
    full = graph.macs()
    none = graph.macs({"a2": ()})
    gone = {n for n in full if n not in none}
    assert {graph.program.node(n).module for n in gone} == {"a2", "b2"}
    assert all(none[n] == full[n] for n in none)
    removed = 8 * 5 * 9 + 5 * 8 + 5 + 5  # a2, b2, and the norm between them; the norm behind them stays
    assert graph.params() - graph.params({"a2": ()}) == removed


def test_squeeze_and_excite_goes_with_its_branch() -> None:
    graph = trace(Depthwise(), IMAGE)
    branch = graph.branch("expand.0")
    assert branch is not None
    modules = {n.name: n.module for n in graph.program.nodes}
    assert [modules[n] for n in branch.constants] == ["project"]
    assert {"squeeze", "excite", "depthwise.0"} <= {modules[n] for n in branch.dead}
    assert graph.branch("squeeze") is None


def test_bottleneck_only_the_last_group_of_a_branch_is_removable() -> None:
    graph = trace(TORCHVISION[1].make(), torch.zeros(1, 3, 32, 32))
    assert graph.branch("layer1.1.conv1") is None
    branch = graph.branch("layer1.1.conv2")
    assert branch is not None
    assert {graph.program.node(n).module for n in branch.dead} >= {"layer1.1.conv1", "layer1.1.conv2"}


def test_a_shared_layer_and_tied_weights_are_one_tensor() -> None:
    graph = trace(Shared(), torch.zeros(1, 6))
    assert {g.id: g.size for g in graph.groups} == {"encode": 8, "hidden": 7}
    stream = graph.group("encode")
    made, read = sites(stream)
    assert made == ["encode.weight", "again.weight", "again.weight"]
    assert read == ["again.weight", "again.weight", "hidden.weight", "hidden.weight"]
    assert stream.owner("again.weight", 0) == stream.owner("again.weight", 1)
    assert graph.shapes({"encode": (0, 1, 2)})["again.weight"] == (3, 3)
    aliases = [names for names in graph.program.parameters.values() if len(names) > 1]
    assert ("hidden.weight", "tied.weight") in aliases
    assert "tied.weight" not in graph.program.shapes
    assert graph.params() == sum(p.numel() for p in Shared().parameters())


class Cut(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.fc1 = nn.Linear(4, 8)
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc1(x))
        left, right = x.chunk(2, -1) if self.how == "chunk" else (x[..., :4], x[..., 4:])
        return self.a(left) + self.b(right)


def test_pieces_of_a_chunk_shrink_alike() -> None:
    graph = trace(Cut("chunk"), torch.zeros(1, 4))
    group = graph.group("fc1")
    assert group.owner("fc1.weight", 0) == (0, 1, 2, 3) * 2
    assert group.owner("a.weight", 1) == group.owner("b.weight", 1) == (0, 1, 2, 3)


def test_slices_are_groups_of_their_own() -> None:
    graph = trace(Cut("slice"), torch.zeros(1, 4))
    assert [(g.id, g.size) for g in graph.groups] == [("fc1", 4), ("fc1#2", 4)]
    assert graph.shapes({"fc1": (0,), "fc1#2": (1, 2)})["fc1.weight"] == (3, 4)


class Pieces(nn.Module):
    """Both halves are read by the same layer, so that only a segment keeps one of each."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc1(x))
        return self.fc2(torch.cat([x[..., :3].tanh(), x[..., 3:]], -1))


def test_a_piece_keeps_one_unit() -> None:
    (group,) = trace(Pieces(), torch.zeros(1, 4)).groups
    assert {s.units for s in group.segments} == {frozenset({0, 1, 2}), frozenset({3, 4, 5, 6, 7})}
    assert "slice" in group.segments[0].reason


def test_errors_name_the_group_and_what_is_close() -> None:
    graph = trace(Residual(), IMAGE)
    with pytest.raises(UnknownNameError, match=r"stem\.1.*Did you mean 'stem\.0'"):
        graph.group("stem.1")
    with pytest.raises(SurgeryError, match=r"stem\.0 must keep at least one of its 8 units"):
        graph.sizes({"stem.0": ()})
    with pytest.raises(SurgeryError, match="a1 has units 0 to 5"):
        graph.total_macs({"a1": (0, 6)})
    with pytest.raises(UnknownNameError, match=r"Did you mean 'fc\.weight'"):
        graph.surviving("fc.weigth", 0, {})
    with pytest.raises(UnknownNameError, match="no node"):
        graph.users("nowhere")
    with pytest.raises(KeyError, match="owns nothing"):
        graph.group("a1").owner("fc.weight", 0)


def test_users_are_the_readers_of_a_value() -> None:
    graph = trace(Residual(), IMAGE)
    site = graph.group("stem.0").consumers[0]
    assert site.node in {n.name for n in graph.users(site.value)}


@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.name)
def test_every_index_has_at_most_one_owner(case) -> None:  # type: ignore[no-untyped-def]
    graph = trace(case.make(), case.inputs(1))
    owned: dict[tuple[str, int, int], str] = {}
    for group in graph.groups:
        assert set(u for s in group.slices for u in s.owner) - {-1} == set(range(group.size))
        first = group.owner(group.producers[0].parameter, group.producers[0].dim)
        assert list(dict.fromkeys(u for u in first if u >= 0)) == list(range(group.size)), (
            "units by first index"
        )
        for s in group.slices:
            for i, unit in enumerate(s.owner):
                if unit >= 0:
                    assert owned.setdefault((s.parameter, s.dim, i), group.id) == group.id


def test_text_is_narrow_and_complete() -> None:
    graph: Graph = trace(resnet20(), torch.zeros(1, 3, 32, 32))
    text = str(graph)
    assert max(map(len, text.splitlines())) <= 110
    assert all(g.id in text for g in graph.groups)
    assert "is an input of the model" in text
    assert "batch size free" in text
    assert f"{graph.total_macs():,} MACs" in text
