"""One pass of least squares on the dense network's own moments."""

import copy
from functools import cache

import pytest
import torch
from models import SMALL, random_selection
from repairs import errors_at
from torch import Tensor, nn

from secateur.graph import Graph, Kept, trace
from secateur.recovery import RIDGES, OnePass
from secateur.recovery.jobs import jobs, masked
from secateur.statistics import Statistics, collect, state_tensors
from secateur.surgery import mask

CASES = {case.name: case for case in SMALL}


@cache
def prepared(name: str, n: int = 24, share: float = 0.4) -> tuple[Graph, Statistics, Kept, Tensor]:
    case = CASES[name]
    x = case.inputs(n, seed=3)
    graph = trace(case.model(), x[:2])
    return graph, collect(graph, graph.groups, [x]), random_selection(graph, share, 0), x


def test_it_is_the_formula_of_the_paper() -> None:
    """W C[:, K] C[K, K]^-1 = (W P^T L)[:, :k] L[:k, :k]^-1, in float64 on the activations themselves."""
    case = CASES["perceptron"]
    model, x = case.model(), case.inputs(60)
    graph = trace(model, x[:2])
    statistics = collect(graph, graph.groups, [x])
    kept = (1, 2, 5, 7)
    repaired = OnePass(ridges=(1e-12,))(graph, {"fc1": kept}, statistics, [x])
    double = copy.deepcopy(model).double()
    with torch.no_grad():
        seen = torch.sigmoid(double.bn(double.fc1(x.double())))
    c, k = seen.T @ seen / 60, torch.tensor(kept)
    w = double.fc2.weight.detach()
    direct = w @ c[:, k] @ torch.linalg.inv(c[k][:, k])
    torch.testing.assert_close(repaired["fc2.weight"][:, k].double(), direct, rtol=1e-3, atol=1e-4)
    p = torch.tensor([*kept, *(i for i in range(9) if i not in kept)])
    factor = torch.linalg.cholesky(c[p][:, p])
    lower = factor / factor.diagonal()
    subspace = (w[:, p] @ lower)[:, :4] @ torch.linalg.inv(lower[:4, :4])
    torch.testing.assert_close(repaired["fc2.weight"][:, k].double(), subspace, rtol=1e-3, atol=1e-4)


def test_the_same_mixing_at_every_tap() -> None:
    graph, statistics, _, x = prepared("residual")
    kept = {"a1": (0, 2, 5)}
    repaired = OnePass(ridges=(1e-12,))(graph, kept, statistics, [x])
    layer = next(layer for layer in graph.layers if layer.module == "b1")
    c = statistics.sites[layer.node].gram
    k = torch.tensor(kept["a1"])
    mixing = c[:, k] @ torch.linalg.inv(c[k][:, k])
    expected = torch.einsum("ocuv,ck->okuv", statistics.tensors["b1.weight"].double(), mixing)
    torch.testing.assert_close(repaired["b1.weight"][:, k].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("recovery", [OnePass(), OnePass(ridges=RIDGES), OnePass(centred=True)], ids=repr)
def test_only_what_reads_removed_units_changes(name: str, recovery: OnePass) -> None:
    graph, statistics, kept, x = prepared(name, n=40)
    current = masked(graph, statistics.tensors, kept)
    repaired = recovery(graph, kept, statistics, [x])
    assert set(repaired) == set(current)
    touched = {job.layer.weight for job in jobs(graph, kept, producers=False, residual=False)}
    allowed = touched | {job.intercept for job in jobs(graph, kept, producers=False, residual=False)}
    for tensor, value in repaired.items():
        assert value.shape == statistics.tensors[tensor].shape
        assert value.dtype == statistics.tensors[tensor].dtype
        assert bool(value.isfinite().all())
        if tensor not in allowed:
            assert torch.equal(value, current[tensor])
    assert any(not torch.equal(repaired[t], current[t]) for t in touched)


@pytest.mark.parametrize("name", ["perceptron", "lenet300", "depthwise", "mixer", "flattened"])
@pytest.mark.parametrize("centred", [False, True])
def test_outputs_of_linear_consumers_come_closer(name: str, centred: bool) -> None:
    """One group at a time: upstream is dense, so what is solved for is what is measured."""
    graph, statistics, _, x = prepared(name, n=32)
    checked = 0
    for group in graph.groups:
        if len(group.producers) != 1:
            continue
        kept = {group.id: tuple(range(0, group.size, 2))}
        before = masked(graph, statistics.tensors, kept)
        after = OnePass(centred=centred)(graph, kept, statistics, [x])
        for job in jobs(graph, kept, producers=False, residual=False):
            if job.taps == 1:
                old, new = errors_at(graph, job.layer, before, x), errors_at(graph, job.layer, after, x)
                assert bool((new <= old * (1 + 1e-3) + 1e-9).all()), (group.id, job.layer.module)
                checked += 1
    assert checked


def test_a_constant_goes_into_the_bias_and_into_batch_norm() -> None:
    """Units that do not vary leave no trace when moments are taken about the mean."""

    class Net(nn.Module):
        def __init__(self, norm: bool) -> None:
            super().__init__()
            self.a = nn.Conv2d(2, 4, 1)
            self.b = nn.Conv2d(4, 3, 1, bias=not norm)
            self.bn = nn.BatchNorm2d(3) if norm else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.b(self.a(x)))

    for norm in (False, True):
        torch.manual_seed(0)
        model = Net(norm).eval()
        with torch.no_grad():
            model.a.weight[:2] = 0  # constants
            if norm:
                model.bn.running_mean.normal_()
                model.bn.weight.normal_()
        x = torch.randn(16, 2, 3, 3)
        graph = trace(model, x[:2])
        statistics = collect(graph, graph.groups, [x])
        repaired = OnePass(centred=True)(graph, {"a": (2, 3)}, statistics, [x])
        double = copy.deepcopy(model)
        double.load_state_dict(dict(model.state_dict()) | repaired)
        with torch.no_grad():
            torch.testing.assert_close(double(x), model(x), rtol=1e-4, atol=1e-4)
            plain = copy.deepcopy(model)
            plain.load_state_dict(dict(model.state_dict()) | masked(graph, statistics.tensors, {"a": (2, 3)}))
            assert not torch.allclose(plain(x), model(x), atol=1e-2)


def test_without_loss_nothing_changes() -> None:
    graph, statistics, _, x = prepared("residual")
    everything = {g.id: tuple(range(g.size)) for g in graph.groups}
    repaired = OnePass()(graph, everything, statistics, [x])
    dense = state_tensors(graph.program)
    assert all(torch.equal(repaired[name], dense[name]) for name in dense)


@pytest.mark.parametrize("name", list(CASES))
def test_masked_tensors_are_the_masked_model(name: str) -> None:
    """What recovery starts from computes what surgery will make (law 1)."""
    case = CASES[name]
    model, x = case.model(), case.inputs(3)
    graph = trace(model, x[:2])
    kept = random_selection(graph, 0.4, 1)
    silenced = copy.deepcopy(model)
    silenced.load_state_dict(
        dict(model.state_dict()) | masked(graph, state_tensors(graph.program), kept), strict=True
    )
    with torch.no_grad():
        expected = mask(model, graph, kept)(x)
        torch.testing.assert_close(silenced(x), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
