"""Readers made from statistics, rankings from scores, and the methods that use them."""

import copy

import pytest
import torch
from models import SMALL
from torch import Tensor, nn

from secateur.graph import Graph, trace
from secateur.methods import SNP, Magnitude, Output, Random, Reader
from secateur.methods.orders import BEYOND
from secateur.methods.ranking import dead_units, from_scores
from secateur.methods.readers import readers
from secateur.statistics import Statistics, collect

CASES = {case.name: case for case in SMALL}


def statistics_of(
    name: str, n: int = 12, patches: bool = True, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, Graph, Statistics, Tensor]:
    case = CASES[name]
    model, x = case.model().to(dtype), case.inputs(n).to(dtype)
    graph = trace(model, x[:2])
    return model, graph, collect(graph, graph.groups, [x], patches=patches, positions=10_000), x


def outputs(model: nn.Module, x: Tensor, module: str) -> Tensor:
    double = copy.deepcopy(model).double()
    seen: list[Tensor] = []
    double.get_submodule(module).register_forward_hook(lambda m, args, y: seen.append(y.clone()))
    with torch.no_grad():
        double(x.double())
    return seen[0]


def test_scores_are_ranked_and_ties_fall_to_the_lower_index() -> None:
    ranking = from_scores(torch.tensor([1.0, 3.0, 3.0, 0.0]), torch.tensor([1.0, 3.0, 4.0, 0.0]))
    assert ranking.order == (1, 2, 0, 3)
    assert ranking.loss.tolist() == pytest.approx([1, 5 / 8, 1 / 8, 0, 0])


def test_units_of_no_power_lose_nothing() -> None:
    assert from_scores(torch.zeros(3), torch.zeros(3)).loss.tolist() == [0, 0, 0, 0]


def test_a_unit_is_dead_only_if_no_reader_notices_it() -> None:
    columns = torch.arange(3)[:, None]
    a = Reader(torch.diag(torch.tensor([1.0, 0.0, 0.0]).double()), torch.ones(1, 3).double(), columns, 1.0)
    b = Reader(torch.diag(torch.tensor([0.0, 0.0, 1.0]).double()), torch.ones(1, 3).double(), columns, 1.0)
    assert dead_units([a]).tolist() == [False, True, True]
    assert dead_units([a, b]).tolist() == [False, True, False]


@pytest.mark.parametrize("name", [case.name for case in SMALL])
@pytest.mark.parametrize("patches", [True, False])
def test_readers_of_every_model_fit_together(name: str, patches: bool) -> None:
    _, graph, statistics, _ = statistics_of(name, n=6, patches=patches)
    for group in graph.groups:
        if not group.consumers:
            continue
        for reader in readers(graph, group, statistics, patches=patches):
            d = len(reader.xx)
            assert reader.xx.shape == (d, d)
            assert reader.weight.shape[1] == d
            assert len(reader.columns) == group.size
            real = reader.columns[reader.columns < d]
            assert len(real.unique()) == len(real)
            assert reader.power > 0


def test_patch_readers_say_what_the_output_loses() -> None:
    """tr(W C W^T) about the mean is the variance of the output, and that is what power measures."""
    model, graph, statistics, x = statistics_of("residual")
    group = next(g for g in graph.groups if g.id == "a1")  # read by b1, 3 x 3 without BatchNorm
    reader = readers(graph, group, statistics)[0]
    expected = float(outputs(model, x, "b1").transpose(0, 1).flatten(1).var(1, unbiased=False).sum())
    assert float((reader.weight @ reader.xx @ reader.weight.T).trace()) == pytest.approx(expected, rel=1e-4)
    scaled = readers(graph, next(g for g in graph.groups if g.id == "a2"), statistics)[
        0
    ]  # BatchNorm behind b2
    expected = float(outputs(model, x, "bn_b").transpose(0, 1).flatten(1).var(1, unbiased=False).sum())
    assert float((scaled.weight @ scaled.xx @ scaled.weight.T).trace()) == pytest.approx(expected, rel=1e-4)


def test_a_grouped_convolution_is_read_group_by_group() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1, groups=2)).eval()
    x = torch.randn(8, 2, 3, 3)
    graph = trace(model, x[:2])
    statistics = collect(graph, graph.groups, [x])
    group = graph.groups[0]
    reader = readers(graph, group, statistics, patches=False)[0]
    expected = float(outputs(model, x, "2").transpose(0, 1).flatten(1).var(1, unbiased=False).sum())
    assert float((reader.weight @ reader.xx @ reader.weight.T).trace()) == pytest.approx(expected, rel=1e-4)


def test_flattened_maps_are_columns_of_their_channel() -> None:
    model, graph, statistics, x = statistics_of("flattened")
    group = graph.groups[0]
    reader = readers(graph, group, statistics)[0]
    assert reader.columns.shape == (6, 16)
    assert reader.columns[2].tolist() == list(range(32, 48))
    expected = float(outputs(model, x, "3").var(0, unbiased=False).sum())
    assert float((reader.weight @ reader.xx @ reader.weight.T).trace()) == pytest.approx(expected, rel=1e-4)


def test_pooled_positions_of_wide_layers() -> None:
    case = CASES["flattened"]
    model, x = case.model(), case.inputs(12)
    graph = trace(model, x[:2])
    statistics = collect(graph, graph.groups, [x], patches=True, widest=50)
    reader = readers(graph, graph.groups[0], statistics)[0]
    assert reader.xx.shape == (6, 6)
    assert reader.columns.flatten().tolist() == list(range(6))
    double = copy.deepcopy(model).double()
    with torch.no_grad():
        maps = double[1](double[0](x.double())).flatten(2).transpose(1, 2).reshape(-1, 6)
    torch.testing.assert_close(reader.xx, maps.T.cov(correction=0), atol=1e-5, rtol=1e-4)


def test_a_transposed_convolution_reads_its_inputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, 2)).eval()
    x = torch.randn(8, 2, 4, 4)
    graph = trace(model, x[:2])
    statistics = collect(graph, graph.groups, [x], patches=True)
    reader = readers(graph, graph.groups[0], statistics, patches=False)[0]
    weight = model[2].weight.detach().double()  # (in, out, 2, 2)
    torch.testing.assert_close(reader.weight.abs().sum(0), weight.abs().sum((1, 2, 3)))
    double = copy.deepcopy(model).double()
    with torch.no_grad():
        maps, made = (double[:n](x.double()).transpose(0, 1).flatten(1) for n in (2, 3))
    torch.testing.assert_close(reader.xx, maps.cov(correction=0), atol=1e-5, rtol=1e-4)
    # Whole patches say what it makes of its inputs: each output position reads one tap.
    reader = readers(graph, graph.groups[0], statistics)[0]
    assert reader.columns.shape == (6, 4)
    expected = float(made.var(1, correction=0).sum())
    assert float((reader.weight @ reader.xx @ reader.weight.T).trace()) == pytest.approx(expected, rel=1e-4)


def test_magnitude_ranks_by_the_norm_of_filters() -> None:
    model, graph, statistics, _ = statistics_of("lenet5", n=2)
    group = next(g for g in graph.groups if g.id == "conv2")
    weight = model.get_parameter("conv2.weight").detach()
    for p in (1, 2):
        norms = weight.flatten(1).norm(p, 1)
        ranked = Magnitude(p).rank(graph, group, statistics)
        assert ranked.order[:5] == tuple(norms.argsort(descending=True).tolist()[:5])
        assert float(ranked.loss[0]) == 1
        assert float(ranked.loss[-1]) == 0


def test_random_depends_on_seed_and_group_alone() -> None:
    _, graph, statistics, _ = statistics_of("perceptron", n=4)
    a, b = graph.groups[:2]
    assert Random(1).rank(graph, a, statistics).order == Random(1).rank(graph, a, statistics).order
    assert Random(1).rank(graph, a, statistics).order != Random(2).rank(graph, a, statistics).order
    assert sorted(Random(1).rank(graph, b, statistics).order) == list(range(b.size))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_snp_finds_dead_and_constant_units_first(dtype: torch.dtype) -> None:
    _, graph, statistics, _ = statistics_of("degenerate", n=64, dtype=dtype)
    group = graph.groups[0]
    ranked = SNP().rank(graph, group, statistics)
    assert set(ranked.order[-2:]) == {0, 1}  # a dead one, and a constant that a bias replaces
    # The jitter is left, and the rounding of E[x^2] - E[x]^2 where activations are float32: a few eps of E[x^2],
    # times what the ridge makes of a column that hardly varies.
    raw = readers(graph, group, statistics, centred=False)[0]
    rounding = 8 * torch.finfo(dtype).eps * (1 + BEYOND * 0.1)
    share = float(raw.xx[1, 1] * raw.weight[:, 1].square().sum() / raw.power)
    assert float(ranked.loss[6]) < 1e-6 + rounding * share
    uncentred = SNP(centred=False, patches=False).rank(graph, group, statistics)
    assert uncentred.order[-1] == 0
    assert uncentred.order[-2] != 1


def test_labels_name_the_method() -> None:
    assert SNP().label == "SNP"
    assert SNP.paper().label == "SNP (paper)"
    assert SNP(order=Output(share=0.5)).label == "SNP"
    assert Magnitude(2).label == "L2 filter norm"
    assert Random(3).label == "random (seed 3)"


class Routed(nn.Module):
    """Two experts, to the second of which no sample is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 6)) for _ in range(2)
        )
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        chosen = (x[:, 0] > 100).long()
        for i, expert in enumerate(self.experts):
            (rows,) = torch.where(chosen == i)
            x = x.index_add(0, rows, expert(x[rows]))
        y: Tensor = self.out(x)
        return y


def test_an_expert_to_which_no_sample_was_sent_is_ranked_by_its_weights() -> None:
    torch.manual_seed(0)
    model, x = Routed().eval(), torch.randn(64, 6)
    graph = trace(model, x[:2])
    statistics = collect(graph, graph.groups, [x], patches=True)
    for group in graph.groups:
        (reader,) = readers(graph, group, statistics)
        loss = SNP(order=Output(ridge=0)).rank(graph, group, statistics).loss
        if group.id == "experts.1.0":
            weight = model.experts[1][2].weight.detach().double()
            torch.testing.assert_close(reader.xx, torch.eye(16, dtype=torch.float64))
            shares = weight.square().sum(0).sort().values / weight.square().sum()
            torch.testing.assert_close(loss.diff().neg().sort().values, shares, rtol=1e-6, atol=1e-9)
        assert float(loss.max()) < 2


def test_a_reader_of_constants_loses_nothing() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)).eval(), torch.randn(64, 6)
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1.0)
    graph = trace(model, x[:2])
    statistics = collect(graph, graph.groups, [x], patches=True)
    (group,) = graph.groups
    assert SNP().rank(graph, group, statistics).loss.tolist() == [0.0] * 10


def test_a_layer_may_read_one_vector() -> None:
    """A network that takes its samples apart calls layers on vectors: each is one row."""

    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 9), nn.Linear(9, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.b(torch.relu(self.a(row))) for row in x.unbind(0)])

    torch.manual_seed(0)
    model, x = Apart().eval(), torch.randn(4, 6)
    graph = trace(model, x)
    found = collect(graph, graph.groups, [x, x + 1], patches=True)
    (group,) = graph.groups
    read = torch.relu(model.a(torch.cat([x[3:], x[3:] + 1]))).detach().double()
    first = readers(graph, group, found, centred=False)[-1]
    torch.testing.assert_close(first.xx, read.T @ read / 2, rtol=1e-5, atol=1e-6)
