"""BatchNorm gains and first-order Taylor scores as rankings."""

import pytest
import torch
import torch.nn.functional as F
from models import SMALL
from ranked import calibrated
from torch import Tensor, nn

import secateur as sc
from secateur.graph import Graph, trace
from secateur.ground.errors import CalibrationError
from secateur.methods import BatchNormScale, Magnitude, Taylor
from secateur.statistics import Statistics, collect, random_projection


def gathered(model: nn.Module, x: Tensor) -> tuple[Graph, Statistics]:
    graph = trace(model, x[:2])
    return graph, collect(graph, graph.groups, [x], loss=random_projection)


def test_gains_rank_units() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.5, -3.0, 0.0, 1.0]))
    graph, statistics = gathered(model, torch.randn(4, 2, 3, 3))
    ranked = BatchNormScale().rank(graph, graph.groups[0], statistics)
    assert ranked.order == (1, 3, 0, 2)
    assert ranked.loss.tolist() == pytest.approx([1, 1.5 / 4.5, 0.5 / 4.5, 0, 0])


def test_several_gains_add_up() -> None:
    """An expanding and a depthwise convolution's BatchNorm scale the same units."""
    model, graph, statistics = calibrated("depthwise")
    group = graph.group("expand.0")
    gains = sum(model.get_submodule(f"{m}.1").weight.detach().abs() for m in ("expand", "depthwise"))
    ranked = BatchNormScale().rank(graph, group, statistics)
    assert ranked.order == tuple(gains.argsort(descending=True).tolist())


def test_a_batch_norm_in_front_of_the_reader_counts() -> None:
    model, graph, statistics = calibrated("dense")
    group = graph.group("stem")  # no BatchNorm stands behind it, but three read it
    gains = sum(norm.weight.detach().abs()[:4] for norm in model.norms)
    ranked = BatchNormScale().rank(graph, group, statistics)
    assert ranked.order == tuple(gains.argsort(descending=True).tolist())


@pytest.mark.parametrize("name", ["degenerate", "lenet5", "flattened"])
def test_without_gains_filter_norms_count(name: str) -> None:
    _, graph, statistics = calibrated(name)
    group = graph.groups[-1]
    found = BatchNormScale().rank(graph, group, statistics)
    assert found.order == Magnitude(p=2).rank(graph, group, statistics).order


def test_taylor_ranks_by_what_the_outputs_lose() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Identity(), nn.Linear(4, 1, bias=False)).eval()
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[1.0, 10.0, 0.0, -3.0]]))
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([5.0, 1.0, 50.0, 1.0]))
    graph, statistics = gathered(model, torch.randn(6, 3))
    ranked = Taylor().rank(graph, graph.groups[0], statistics)
    assert ranked.order == (1, 0, 3, 2)  # |10|, |5|, |-3|, 0
    assert ranked.loss.tolist() == pytest.approx([1, 34 / 134, 9 / 134, 0, 0])


def test_losses_of_groups_are_shares_of_the_same_sum() -> None:
    """Scores are in units of the loss, whichever layer they come from: groups can be compared."""
    _, graph, statistics = calibrated("residual")
    groups = [graph.group(id) for id in statistics.gradients]
    losses = [float(Taylor().rank(graph, group, statistics).loss[0]) for group in groups]
    assert sum(losses) == pytest.approx(1)
    assert len({round(loss, 6) for loss in losses}) == len(losses) > 1


def test_a_dead_unit_goes_first() -> None:
    _, graph, statistics = calibrated("degenerate")
    assert Taylor().rank(graph, graph.groups[0], statistics).order[-1] == 0


@pytest.mark.parametrize("recovery", [None, sc.OnePass()], ids=["plain", "repaired"])
@pytest.mark.parametrize("method", [sc.BatchNormScale, sc.Taylor])
def test_they_go_through_prune(method: type, recovery: sc.OnePass | None) -> None:
    case = next(case for case in SMALL if case.name == "residual")
    model, x = case.model(), case.inputs(24, seed=3)
    result = sc.prune(
        model,
        x[:2],
        method=method(recovery=recovery),
        budget=sc.Budget(macs=0.6),
        calibration=x.split(8),
        progress=False,
    )
    assert result.report.after.macs <= 0.6 * result.report.before.macs
    assert result.report.method in ("BatchNorm scale", "Taylor (no labels)")


def test_labels_come_behind_the_inputs() -> None:
    case = next(case for case in SMALL if case.name == "perceptron")
    model, x = case.model(), case.inputs(24, seed=3)
    y = torch.arange(24) % 4
    batches = list(zip(x.split(8), y.split(8), strict=True))
    method, budget = sc.Taylor(loss=F.cross_entropy), sc.Budget(macs=0.6)
    result = sc.prune(model, x[:2], method=method, budget=budget, calibration=batches, progress=False)
    assert result.report.method == "Taylor"
    assert result.recipe["method"]["loss"] == "torch.nn.functional:cross_entropy"
    with pytest.raises(CalibrationError, match="no labels"):
        sc.prune(model, x[:2], method=method, budget=budget, calibration=x.split(8), progress=False)
