"""Sequential recovery on tiny networks, against what it says that it does."""

import copy
from functools import cache

import pytest
import torch
from models import SMALL, random_selection
from repairs import errors_at, values_at
from torch import Tensor, nn

from secateur.graph import Graph, Kept, trace
from secateur.ground.errors import CalibrationError
from secateur.recovery import Sequential
from secateur.recovery.jobs import jobs, masked
from secateur.statistics import Forward, Statistics, collect, state_tensors

PLAIN = Sequential(batch_norm=False, warm=False, rectified=False, positions=10_000)


@cache
def prepared(name: str, n: int = 24) -> tuple[Graph, Statistics, Tensor]:
    case = next(case for case in SMALL if case.name == name)
    x = case.inputs(n, seed=3)
    graph = trace(case.model(), x[:2])
    return graph, collect(graph, graph.groups, x.split(8)), x


def inner(graph: Graph, share: float = 0.4) -> Kept:
    """Select among the groups that one layer makes."""
    whole = random_selection(graph, share, 0)
    return {g.id: whole[g.id] for g in graph.groups if len(g.producers) == 1}


def outputs(graph: Graph, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    result = Forward(graph.program, tensors).run([x], {}, {}, whole=True)
    assert result is not None
    return result[0]


def model_with(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    other = copy.deepcopy(model)
    other.load_state_dict(dict(model.state_dict()) | tensors)
    return other


@pytest.mark.parametrize(
    "name", ["residual", "depthwise", "grouped", "perceptron", "dense", "mixer", "flattened"]
)
@pytest.mark.parametrize("recovery", [Sequential(), PLAIN], ids=["default", "plain"])
def test_the_network_comes_closer(name: str, recovery: Sequential) -> None:
    graph, statistics, x = prepared(name)
    kept = inner(graph)
    dense = outputs(graph, dict(statistics.tensors), x)
    before = masked(graph, statistics.tensors, kept)
    after = recovery(graph, kept, statistics, x.split(8))
    assert set(after) == set(before)
    assert all(after[k].shape == before[k].shape and after[k].dtype == before[k].dtype for k in before)
    old, new = (float(((outputs(graph, t, x) - dense) ** 2).mean()) for t in (before, after))
    assert new < 0.5 * old


def test_removed_units_stay_removed() -> None:
    graph, statistics, x = prepared("residual")
    kept = inner(graph)
    after = Sequential()(graph, kept, statistics, x.split(8))
    expected = outputs(graph, after, x)
    again = outputs(graph, masked(graph, after, kept), x)
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-4)


def test_without_loss_nothing_changes() -> None:
    graph, statistics, x = prepared("residual")
    everything = {g.id: tuple(range(g.size)) for g in graph.groups}
    after = Sequential()(graph, everything, statistics, x.split(8))
    dense = state_tensors(graph.program)
    assert all(torch.equal(after[name], dense[name]) for name in dense)


def test_units_that_are_dead_cost_nothing_and_weights_hardly_move() -> None:
    """The pruned network equals the dense one, so that there is nothing to repair."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        model[0].weight[5:] = 0
        model[0].bias[5:] = -1
    x = torch.randn(64, 4)
    graph = trace(model, x[:2])
    statistics = collect(graph, graph.groups, [x])
    after = PLAIN(graph, {"0": tuple(range(5))}, statistics, [x])
    torch.testing.assert_close(
        after["2.weight"][:, :5], model[2].weight.detach()[:, :5], atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(after["2.bias"], model[2].bias.detach(), atol=1e-4, rtol=1e-4)


def test_a_redundant_unit_is_taken_over_exactly() -> None:
    """Unit 3 is twice unit 2 plus a constant: weight and bias take both over."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        model[0].weight[3] = 2 * model[0].weight[2]
        model[0].bias[3] = 2 * model[0].bias[2] + 5
    x = torch.randn(64, 4)
    graph = trace(model, x[:2])
    statistics = collect(graph, graph.groups, [x])
    after = PLAIN(graph, {"0": (0, 1, 2)}, statistics, [x])
    with torch.no_grad():
        torch.testing.assert_close(model_with(model, after)(x), model(x), atol=1e-3, rtol=1e-3)
    w, b = model[1].weight.detach(), model[1].bias.detach()
    torch.testing.assert_close(after["1.weight"][:, 2], w[:, 2] + 2 * w[:, 3], atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(after["1.bias"], b + 5 * w[:, 3], atol=1e-2, rtol=1e-2)


def test_a_constant_goes_into_the_mean_of_the_batch_norm_behind() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)
    ).eval()
    with torch.no_grad():
        model[0].weight[2:] = 0
        model[2].running_mean.normal_()
        model[2].weight.normal_()
    x = torch.randn(16, 2, 4, 4)
    graph = trace(model, x[:2])
    statistics = collect(graph, graph.groups, [x])
    after = PLAIN(graph, {"0": (0, 1)}, statistics, [x])
    assert not torch.equal(after["2.running_mean"], model[2].running_mean)
    assert torch.equal(after["2.weight"], model[2].weight)
    with torch.no_grad():
        torch.testing.assert_close(model_with(model, after)(x), model(x), atol=1e-3, rtol=1e-3)


def test_a_channel_that_batch_norm_silences_keeps_its_weights() -> None:
    graph, statistics, x = prepared("residual")
    tensors = {name: value.clone() for name, value in statistics.tensors.items()}
    tensors["bn_b.weight"][3] = 0
    statistics = Statistics(statistics.samples, statistics.sites, statistics.power, tensors)
    after = PLAIN(graph, {"a2": (0, 1, 2)}, statistics, x.split(8))
    assert torch.equal(after["b2.weight"][3, :3], tensors["b2.weight"][3, :3])
    assert not torch.equal(after["b2.weight"][2, :3], tensors["b2.weight"][2, :3])
    assert all(bool(value.isfinite().all()) for value in after.values())


def test_the_last_layer_of_a_branch_repairs_the_sum() -> None:
    """What the first branch got wrong comes in by the shortcut; only the residual target sees it."""
    graph, statistics, x = prepared("residual")
    kept = {"a1": (0,), "a2": (0, 1, 2)}
    own, joined = (
        Sequential(
            batch_norm=False, warm=False, rectified=False, producers=False, residual=r, positions=10_000
        )(graph, kept, statistics, x.split(8))
        for r in (False, True)
    )
    layer = next(layer for layer in graph.layers if layer.module == "b2")
    assert float(errors_at(graph, layer, joined, x).sum()) < float(errors_at(graph, layer, own, x).sum())


def test_grouped_and_depthwise_layers_are_solved_inside_their_groups() -> None:
    graph, statistics, x = prepared("depthwise")
    kept = {g.id: tuple(range(0, g.size, 2)) for g in graph.groups if g.id.startswith("expand")}
    [group] = kept
    work = {job.layer.module: job for job in jobs(graph, kept, producers=True, residual=True)}
    depthwise = work["depthwise.0"]
    assert depthwise.groups.tolist() == list(kept[group])
    assert depthwise.inputs.shape == (5, 1)
    after = PLAIN(graph, kept, statistics, x.split(8))
    before = masked(graph, statistics.tensors, kept)
    assert after["depthwise.0.weight"].shape == before["depthwise.0.weight"].shape
    gone = [i for i in range(10) if i not in kept[group]]
    assert torch.equal(after["depthwise.0.weight"][gone], before["depthwise.0.weight"][gone])


def test_channels_where_patches_would_not_fit() -> None:
    graph, statistics, x = prepared("residual")
    kept = inner(graph)
    dense = outputs(graph, dict(statistics.tensors), x)
    for recovery in (Sequential(memory=0), Sequential(patches=False)):
        after = recovery(graph, kept, statistics, x.split(8))
        before = masked(graph, statistics.tensors, kept)
        old, new = (float(((outputs(graph, t, x) - dense) ** 2).mean()) for t in (before, after))
        assert new < old


def test_a_branch_without_units_leaves_its_constant() -> None:
    graph, statistics, x = prepared("residual")
    after = PLAIN(graph, {"a1": ()}, statistics, x.split(8))
    layer = next(layer for layer in graph.layers if layer.module == "b1")
    dense = values_at(graph, layer.node, state_tensors(graph.program), x)
    torch.testing.assert_close(after["b1.bias"], dense.mean((0, 2, 3)), atol=1e-3, rtol=1e-2)


def test_the_same_seed_gives_the_same_tensors() -> None:
    graph, statistics, x = prepared("residual")
    few = Sequential(positions=5, oversampling=1)
    first, second, other = (few(graph, inner(graph), statistics, x.split(8), seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_dense_tensors_are_left_alone() -> None:
    graph, statistics, x = prepared("grouped")
    before = {name: value.clone() for name, value in statistics.tensors.items()}
    Sequential()(graph, inner(graph), statistics, x.split(8))
    assert all(torch.equal(value, before[name]) for name, value in statistics.tensors.items())


def test_data_that_changed_since_the_statistics() -> None:
    graph, statistics, x = prepared("residual")
    with pytest.raises(CalibrationError, match="not finite"):
        Sequential()(graph, inner(graph), statistics, [torch.full_like(x, float("nan"))])
    with pytest.raises(CalibrationError, match="not finite"):
        Sequential()(graph, inner(graph), statistics, [x * 1e38])
    with pytest.raises(CalibrationError, match="empty"):
        Sequential()(graph, inner(graph), statistics, [])
