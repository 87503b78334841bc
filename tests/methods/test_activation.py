"""Criteria of language models against their definitions, computed from activations."""

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.graph import trace
from secateur.methods import ActivationMagnitude, Fluctuation, Method
from secateur.selection import Standardised
from secateur.statistics import collect


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    with torch.no_grad():  # a unit that is large and never moves
        net[0].weight[4] = 0
        net[0].bias[4] = 5.0
        net[2].weight[:, 4] = 7.0
    return net


def hidden(net: nn.Sequential, x: Tensor) -> Tensor:
    return torch.relu(net[0](x)).detach().double()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_are_their_definitions(seed: int) -> None:
    net, x = network(seed), torch.randn(200, 6, generator=torch.Generator().manual_seed(seed))
    graph = trace(net, x[:2])
    statistics = collect(graph, graph.groups, x.split(50))
    weight, values = net[2].weight.detach().double(), hidden(net, x)
    by_power = (weight.abs() * values.square().mean(0).sqrt()).sum(0)
    by_change = weight.square().sum(0) * values.var(0, correction=0)
    methods: list[tuple[Method, Tensor]] = [(ActivationMagnitude(), by_power), (Fluctuation(), by_change)]
    for method, scores in methods:
        ranked = method.rank(graph, graph.groups[0], statistics)
        assert ranked.order == tuple(scores.argsort(descending=True).tolist())
        torch.testing.assert_close(ranked.loss[1], 1 - scores.max() / scores.sum(), rtol=1e-4, atol=1e-9)
    assert ActivationMagnitude().rank(graph, graph.groups[0], statistics).order[0] == 4
    assert Fluctuation().rank(graph, graph.groups[0], statistics).order[-1] == 4


def test_what_never_moves_goes_into_the_bias() -> None:
    net, x = network(0), torch.randn(200, 6)
    result = sc.prune(
        net,
        x[:2],
        method=Fluctuation(),
        budget=sc.Budget(macs=0.93),
        calibration=x.split(50),
        limits=sc.Limits(keep={"0": 11}),
    )
    kept = list(result.plan.kept["0"])
    assert kept == [i for i in range(12) if i != 4]
    torch.testing.assert_close(result.model(x), net(x), rtol=1e-4, atol=1e-4)
    # Kept weights stay: that, and the bias, is all that this recovery does.
    torch.testing.assert_close(result.model[2].weight, net[2].weight[:, kept], rtol=1e-5, atol=1e-6)  # type: ignore[index]


def test_fewer_units_shift_the_bias_by_their_means() -> None:
    net, x = network(3), torch.randn(400, 6)
    result = sc.prune(net, x[:2], method=Fluctuation(), budget=sc.Budget(macs=0.5), calibration=x.split(100))
    kept = set(result.plan.kept["0"])
    lost = [i for i in range(12) if i not in kept]
    means = hidden(net, x).mean(0)[lost].float()
    expected = net[2].bias + net[2].weight[:, lost] @ means
    torch.testing.assert_close(result.model[2].bias, expected, rtol=1e-4, atol=1e-4)  # type: ignore[index]


def test_standardised_scores_compare_groups() -> None:
    scores = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    loss = torch.cat([scores.flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)])
    keys = Standardised()(loss, 1.0)
    torch.testing.assert_close(keys, (scores - scores.mean()) / scores.std(correction=0))
    torch.testing.assert_close(Standardised()(1000 * loss, 7.0), keys)
    assert Standardised()(torch.zeros(4, dtype=torch.float64), 1.0).tolist() == [0, 0, 0]
