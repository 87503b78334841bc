"""NN-relief: scores and selections against loops, the rules on small networks, and what is refused."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import SMALL, Case
from torch import Tensor, nn

from secateur.graph import Graph, trace
from secateur.graph.unread import sweep
from secateur.ground.errors import BudgetError, CalibrationError, TrainingError
from secateur.methods.contributors import (
    PivotRule,
    above,
    as_masks,
    carrying,
    ladder,
    lifelines,
    score,
    select,
)
from secateur.methods.nn_relief import Allocation, NNRelief, Propagation
from secateur.statistics import state_tensors
from secateur.statistics.activity import Contributions, Contributor, Norm, activity
from secateur.training import Masks

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


def prune(
    case: Case, method: NNRelief, share: float | None = None, masks: Masks | None = None
) -> tuple[nn.Module, Masks]:
    model = case.model()
    given_masks = masks or Masks.full(model)
    return model, method.prune(model, given_masks, share, [case.inputs(16)])


@pytest.mark.parametrize("propagation", list(Propagation))
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_masks_shrink_and_keep_the_network_alive(case: Case, propagation: Propagation) -> None:
    method = replace(NNRelief.paper(0.7, 0.7), propagation=propagation, empty_layers=True)
    model, masks = prune(case, method)
    assert masks.keys() == Masks.full(model).keys()
    assert 0 < masks.share < 0.95
    masks.applied(model)
    with torch.no_grad():
        assert float(model(case.inputs(4)).std(0).max()) > 0  # inputs still reach the outputs
    again = method.prune(model, masks, None, [case.inputs(16)])
    assert again <= masks


@pytest.mark.parametrize(
    ("case", "contributor"),
    [(case, Contributor.KERNEL) for case in SMALL]
    + [(BY_NAME[name], Contributor.WEIGHT) for name in ("lenet5", "resnet20", "grouped")],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_budget_over_the_network_empties_no_layer(case: Case, contributor: Contributor) -> None:
    """Round after round, down to what the floor is: masks only shrink, and each round meets its share."""
    method = NNRelief(contributor=contributor)
    model = case.model()
    masks = Masks.full(model, [name for name, p in model.named_parameters() if p.dim() > 1])
    layers = trace(model, case.inputs(2)).layers
    floor = sum(masks[name].numel() for name in masks if name not in {layer.weight for layer in layers})
    for share in (0.2, 0.005):
        if share * masks.total < floor + 9 * len(layers):
            break
        smaller = method.prune(model, masks, share, [case.inputs(16)])
        assert smaller <= masks
        assert smaller.share <= share
        assert all(bool(smaller[layer.weight].any()) for layer in layers)
        masks = smaller
        masks.applied(model)


@pytest.mark.parametrize("propagation", list(Propagation))
@pytest.mark.parametrize("contributor", list(Contributor))
def test_over_the_network_the_strongest_of_all_layers_stay(
    contributor: Contributor, propagation: Propagation
) -> None:
    """On layers of which every unit is still read, so that nothing else goes: against all scores in one list."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.Flatten(), nn.Linear(16, 8))
    x = torch.rand(8, 1, 3, 3)
    method = NNRelief(contributor=contributor, propagation=propagation)
    masks = method.prune(model, Masks.full(model), 0.7, [x])
    graph = trace(model, x)
    tensors = state_tensors(graph.program)
    found = activity(graph, graph.layers, tensors, [x], contributor=contributor)
    scores = [
        score(layer, found.contributions[layer.node], tensors[layer.weight], tensors[layer.bias or ""], 0.25)
        for layer in graph.layers
    ]
    kernels = contributor is Contributor.KERNEL
    pool = [(v, 4 if kernels else 1) for v in scores[0].inputs.flatten().tolist()]
    rest = [t for s in scores for t in (s.bias, s.inputs if s is scores[1] else None) if t is not None]
    pool += [(v, 1) for t in rest for v in t.flatten().tolist()]
    kept, threshold = 0, 0.0
    for value, entries in sorted(pool, reverse=True):
        if kept + entries > 0.7 * masks.total:
            break
        kept, threshold = kept + entries, value
    if propagation is Propagation.WHOLE:
        assert masks.kept == kept
        assert torch.equal(masks["2.weight"], scores[1].inputs >= threshold)
        assert torch.equal(masks["2.bias"], scores[1].bias >= threshold)  # type: ignore[operator]
    assert masks.share <= 0.7
    first = masks["0.weight"].flatten(2)
    assert not kernels or torch.equal(first.any(2), first.all(2))


def test_without_a_share_the_fewest_of_each_kind_carry_alpha() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False))
    x = torch.rand(16, 4)
    method = NNRelief(alpha_linear=0.9, exponent=0.0)
    masks = method.prune(model, Masks.full(model), None, [x])
    sizes = torch.cat([p.detach().abs().flatten() for p in model.parameters()]).double()
    threshold = carrying(sizes.sort(descending=True).values, 0.9)
    for name, p in model.named_parameters():
        assert bool((masks[name] <= (p.abs() >= threshold)).all())
    assert 0.5 < masks.share < 0.9


def test_lifelines_are_read() -> None:
    """Of every layer something stays, also through residual streams, and it feeds something: nothing is swept."""
    case = BY_NAME["resnet20"]
    model, x = case.model(), case.inputs(8)
    graph = trace(model, x)
    tensors = state_tensors(graph.program)
    found = activity(graph, graph.layers, tensors, [x], contributor=Contributor.WEIGHT).contributions
    masks = Masks.full(model)
    kept = lifelines(graph, graph.layers, found, masks)
    assert kept.keys() == {layer.weight for layer in graph.layers}
    assert all(bool(mask.any()) for mask in kept.values())
    assert kept.kept < 3 * len(graph.layers)
    assert Masks(sweep(graph, kept)) == kept


@cache
def residual() -> tuple[Graph, Masks]:
    case = BY_NAME["residual"]
    model = case.model()
    graph = trace(model, case.inputs(2))
    return graph, Masks.full(model, {layer.weight for layer in graph.layers})


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1), st.sampled_from(list(Contributor)))
def test_lifelines_under_any_scores(seed: int, quiet: float, share: float, contributor: Contributor) -> None:
    """What is above a threshold, and the lines: swept, all layers are in use; a second round cuts within the first."""
    torch.manual_seed(seed)
    graph, masks = residual()
    for _ in range(2):
        scores = {}
        for layer in graph.layers:
            alive = masks[layer.weight].double()
            if alive.ndim > 2 and contributor is Contributor.KERNEL:
                alive = alive.flatten(2).amax(2)
            loud = (torch.rand(alive.shape) > quiet).double()  # many carry nothing
            scores[layer.node] = Contributions((torch.rand(alive.shape) * loud * alive).flatten(1), None)
        steps = ladder(scores.values())
        threshold = float(steps[int(share * (len(steps) - 1))]) if len(steps) else 1.0
        stays = as_masks(graph.layers, scores, lambda layer, found, t=threshold: above(found, t), masks)
        lines = lifelines(graph, graph.layers, scores, masks)
        assert lines <= masks
        kept = Masks(sweep(graph, {name: stays[name] | lines[name] for name in masks}))
        assert kept <= masks
        assert all(bool(kept[layer.weight].any()) for layer in graph.layers)
        masks = kept


def test_kernels_go_as_a_whole() -> None:
    model, masks = prune(BY_NAME["resnet20"], NNRelief.paper(0.6, 0.9))
    some = False
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            kernels = masks[f"{name}.weight"].flatten(2)
            assert torch.equal(kernels.any(2), kernels.all(2))
            some |= not bool(kernels.all())
    assert some


def test_a_bias_is_one_more_contributor() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.0], [9.0, 1.0]]))
        layer.bias.copy_(torch.tensor([9.0, 0.1]))
    masks = NNRelief.paper(alpha_linear=0.8).prune(layer, Masks.full(layer), None, [torch.ones(4, 2)])
    assert masks["weight"].tolist() == [[False, False], [True, False]]
    assert masks["bias"].tolist() == [True, False]


def test_what_feeds_a_unit_that_nothing_reads_goes() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[2].weight.copy_(torch.tensor([[1.0, 0.01]]))
    masks = NNRelief.paper(alpha_linear=0.9).prune(model, Masks.full(model), None, [torch.ones(4, 2)])
    assert masks["2.weight"].tolist() == [[True, False]]
    assert masks["0.weight"].tolist() == [[True, True], [False, False]]
    assert not bool(masks["0.bias"][1])


def test_a_unit_that_is_always_silent_goes() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
        model[0].bias.zero_()
    masks = NNRelief.paper(alpha_linear=1.0).prune(model, Masks.full(model), None, [torch.ones(4, 2)])
    assert masks["0.weight"].tolist() == [[True, True], [False, False]]


class Block(nn.Module):
    """A branch beside a projection; channel 0 of the branch and channel 1 of the projection are weak."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.shortcut = (nn.Conv2d(2, 2, 1) for _ in range(3))
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.norm(self.b(torch.relu(self.a(x)))) + self.shortcut(x)).mean((2, 3)))


def test_the_weak_side_of_a_residual_sum_goes() -> None:
    torch.manual_seed(0)
    model = Block()
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([1e-3, 1.0]))
        model.shortcut.weight[1] *= 1e-3
        model.shortcut.bias[1] *= 1e-3
    x = torch.randn(8, 2, 3, 3)
    method = NNRelief.paper(0.95, 1.0)
    masks = method.prune(model, Masks.full(model), None, [x])
    assert not bool(masks["b.weight"][0].any())
    assert not bool(masks["norm.bias"][0])  # else a constant would be left of it
    assert bool(masks["b.weight"][1].any())
    assert bool(masks["shortcut.weight"].flatten(1).any(1).all())  # a projection is left whole
    without = replace(method, residual=False).prune(model, Masks.full(model), None, [x])
    assert bool(without["b.weight"][0].any())


def test_a_budget_does_not_raise_the_alpha_of_residual_sums() -> None:
    torch.manual_seed(0)
    model, x = Block(), torch.randn(8, 2, 3, 3)
    masks = Masks.full(model, [name for name, _ in model.named_parameters() if "head" not in name])
    gains = [
        NNRelief.paper(0.95, 0.95).prune(model, masks, share, [x])["norm.weight"] for share in (None, 0.6)
    ]
    assert gains[0].tolist() == gains[1].tolist() == [True, True]


@pytest.mark.parametrize("name", ["lenet300", "lenet5", "resnet20", "vgg16_bn", "mixer"])
@pytest.mark.parametrize("method", [NNRelief.paper(0.95, 0.99), NNRelief()], ids=["paper", "network"])
def test_a_share_is_met_and_a_smaller_one_keeps_a_subset(name: str, method: NNRelief) -> None:
    method = replace(method, empty_layers=True)
    _, large = prune(BY_NAME[name], method, 0.5)
    _, small = prune(BY_NAME[name], method, 0.4)
    assert 0.49 < large.share <= 0.5
    assert 0.38 < small.share <= 0.4
    assert small <= large


def test_parameters_without_a_mask_stay_whole() -> None:
    case = BY_NAME["lenet300"]
    chosen = Masks.full(case.model(), ["fc1.weight", "fc2.weight"])
    _, masks = prune(case, NNRelief.paper(alpha_linear=0.5), masks=chosen)
    assert masks.keys() == chosen.keys()
    assert masks.share < 0.6


def test_labels_are_ignored_and_only_so_many_samples_are_seen() -> None:
    case, seen = BY_NAME["perceptron"], 0

    def loader() -> object:
        nonlocal seen
        while True:
            seen += 1
            yield case.inputs(10, seed=seen), torch.zeros(10)

    model = case.model()
    NNRelief(alpha_linear=0.9, samples=35).prune(model, Masks.full(model), None, loader())  # type: ignore[arg-type]
    assert seen == 4


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("pivot", list(PivotRule))
def test_the_options_of_the_public_code(norm: Norm, pivot: PivotRule) -> None:
    _, masks = prune(BY_NAME["lenet5"], replace(NNRelief.paper(0.9, 0.95), norm=norm, pivot=pivot))
    assert 0.1 < masks.share < 0.9


@pytest.mark.parametrize("alpha", [0.0, -1.0, 1.01, float("nan")])
def test_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha_conv"):
        NNRelief(alpha_conv=alpha)
    with pytest.raises(ValueError, match="alpha_linear"):
        NNRelief(alpha_linear=alpha)


def test_a_layer_that_would_be_empty_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)  # nothing gets through
    masks, data = Masks.full(model), [torch.rand(4, 2)]
    with pytest.raises(TrainingError, match=r"all weights of .*empty_layers=True"):
        NNRelief.paper().prune(model, masks, None, data)
    for method in (NNRelief(), NNRelief.paper()):
        allowed = replace(method, empty_layers=True).prune(model, masks, None, data)
        assert not bool(allowed["2.weight"].any())
    assert (
        int(NNRelief().prune(model, masks, None, data)["2.weight"].sum()) == 1
    )  # over the network one stays


def test_what_cannot_be_scored_is_refused() -> None:
    case = BY_NAME["perceptron"]
    with pytest.raises(CalibrationError, match="no batches"):
        NNRelief().prune(case.model(), Masks.full(case.model()), None, [])
    with pytest.raises(BudgetError, match="contributor of every neuron"):
        prune(case, NNRelief.paper(), 0.001)
    with pytest.raises(BudgetError, match="contributor of every layer"):
        prune(case, NNRelief(), 0.001)
    with pytest.raises(ValueError, match="exponent"):
        NNRelief(exponent=-1.0)
