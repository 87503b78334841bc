"""NN-relief: scores of contributors and the fewest that carry a share, against loops."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import SMALL
from torch import nn

from secateur.graph import trace
from secateur.methods.contributors import (
    PivotRule,
    carrying,
    score,
    select,
)
from secateur.methods.nn_relief import Allocation, NNRelief
from secateur.statistics import state_tensors
from secateur.statistics.activity import Contributions, Contributor, activity

BY_NAME = {case.name: case for case in SMALL}
PAPER = NNRelief.paper()


def one_by_one(scores: list[float], alpha: float, pivot: PivotRule) -> list[bool]:
    """The rule for one neuron, as the sentences of the paper and the lines of the public code say it."""
    n, total = len(scores), sum(scores)
    order = sorted(scores, reverse=True)
    sums = [sum(order[: i + 1]) for i in range(n)]
    if pivot is PivotRule.STAYS:
        p0 = next(i for i in range(n) if sums[i] >= alpha * total)
        return [s >= order[p0] and s > 0 for s in scores]
    k = sum(c < alpha * total for c in sums)
    threshold = order[k + 1 if k < n - 1 else n - 1]
    return [s > threshold for s in scores]


@given(
    st.lists(st.lists(st.integers(0, 8), min_size=4, max_size=4), min_size=1, max_size=5),
    st.sampled_from([0.125, 0.25, 0.5, 0.75, 1.0]),  # exact in binary, so that sums reach alpha or do not
    st.sampled_from(list(PivotRule)),
    st.booleans(),
)
def test_selection(scores: list[list[int]], alpha: float, pivot: PivotRule, biased: bool) -> None:
    values = torch.tensor(scores, dtype=torch.float64)
    found = Contributions(values[:, :-1], values[:, -1]) if biased else Contributions(values, None)
    inputs, bias = select(found, alpha, pivot)
    stays = torch.cat([inputs, bias[:, None]], 1) if bias is not None else inputs
    assert stays.tolist() == [one_by_one([float(s) for s in row], alpha, pivot) for row in scores]


def test_the_form_of_the_paper() -> None:
    assert (
        NNRelief(contributor=Contributor.KERNEL, allocation=Allocation.NEURON, exponent=1.0, residual=True)
        == PAPER
    )
    assert NNRelief.paper(0.9, 0.8) == replace(PAPER, alpha_conv=0.9, alpha_linear=0.8)


@pytest.mark.parametrize("exponent", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("contributor", list(Contributor))
def test_scores(contributor: Contributor, exponent: float) -> None:
    """Magnitude times (activity over its layer's mean) to a power, contributor by contributor."""
    torch.manual_seed(0)
    conv, x = nn.Conv2d(2, 3, (1, 2)).double(), torch.rand(4, 2, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        conv.weight[0, 0] = 0  # gone already
        conv.weight[1, 1, 0, 1] = 0
    graph = trace(conv, x)
    [layer] = graph.layers
    tensors = state_tensors(graph.program)
    [found] = activity(graph, [layer], tensors, [x], contributor=contributor).contributions.values()
    got = score(layer, found, tensors["weight"], tensors["bias"], exponent)
    size, loud = [], []
    for j in range(3):
        for i in range(2):
            weights = conv.weight[j, i, 0].detach()
            parts = [weights] if contributor is Contributor.KERNEL else [w[None] for w in weights]
            size += [float((part**2).mean().sqrt()) for part in parts]
        carried = found.inputs[j].tolist()
        loud += [c / m if m else 0.0 for c, m in zip(carried, size[-len(carried) :], strict=True)]
    mean = sum(loud) / sum(m > 0 for m in size)
    expected = [m * (a / mean) ** exponent for m, a in zip(size, loud, strict=True)]
    assert got.inputs.flatten().tolist() == pytest.approx(expected, rel=1e-12)
    maps = 6**0.5  # a bias of 1 makes a map of ones, 3 x 2
    biases = [abs(b) * (maps / mean) ** exponent for b in conv.bias.tolist()]
    assert got.bias is not None
    assert got.bias.tolist() == pytest.approx(biases, rel=1e-12)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.sampled_from([0.25, 0.5, 0.75, 1.0]))
def test_the_fewest_of_a_ladder(scores: list[int], alpha: float) -> None:
    steps = sorted(map(float, scores), reverse=True)
    count = next(n for n in range(1, len(steps) + 1) if sum(steps[:n]) >= alpha * sum(steps))
    assert carrying(torch.tensor(steps, dtype=torch.float64), alpha) == steps[count - 1]


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 100))
def test_a_smaller_alpha_keeps_a_subset(a: float, b: float, seed: int) -> None:
    torch.manual_seed(seed)
    found = Contributions(torch.rand(3, 6, dtype=torch.float64) ** 3, torch.rand(3, dtype=torch.float64))
    few, many = (select(found, alpha) for alpha in sorted((a, b)))
    assert bool((few[0] <= many[0]).all())
    assert few[1] is not None
    assert many[1] is not None
    assert bool((few[1] <= many[1]).all())
