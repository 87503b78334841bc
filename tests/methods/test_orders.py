"""Orders against their formulas in float64, and against least squares on the data themselves."""

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import Problem, gram_reader
from torch import Tensor

from secateur.methods import ZCA, Conditional, Order, Output, Pivot, Ranking, Reader, Variance, Weights
from secateur.methods.orders import innovations, joint_gram

GRAM_ORDERS: list[Order] = [ZCA(), Conditional(), Variance(), Weights(), Pivot()]
ORDERS: list[Order] = [*GRAM_ORDERS, Output(), Output(share=0.25), Output(limit=0)]


def named(order: Order) -> str:
    return repr(order)


def plain(seed: int, units: int = 7, **options: int) -> tuple[Problem, Tensor]:
    problem = Problem.draw(seed, units, **options)
    return problem, problem.readers()[0].xx


def inverse_root(gram: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(gram)
    root: Tensor = vectors @ torch.diag(values**-0.5) @ vectors.T
    return root


def check_form(ranking: Ranking, units: int) -> None:
    assert sorted(ranking.order) == list(range(units))
    assert ranking.loss.shape == (units + 1,)
    assert bool(ranking.loss.isfinite().all())
    assert float(ranking.loss[-1]) == 0
    assert bool((ranking.loss.diff() <= 1e-12).all())
    assert float(ranking.loss.min()) >= 0


@pytest.mark.parametrize("seed", range(3))
def test_zca_scores_are_the_spread_after_unnormalised_whitening(seed: int) -> None:
    problem, gram = plain(seed)
    root = inverse_root(gram)
    scores = 1 / root.diagonal() ** 2
    # M C M^T is diagonal and its entries are the scores.
    m = root / root.diagonal()[:, None]
    torch.testing.assert_close(m @ gram @ m.T, torch.diag(scores), atol=1e-9, rtol=1e-9)
    one_column = [Reader(gram, problem.weights[0], torch.arange(7)[:, None], 1.0)]
    assert ZCA()(one_column).order == tuple(scores.argsort(descending=True).tolist())


def test_zca_scores_of_heads() -> None:
    problem, gram = plain(0, 4, width=3)
    root = inverse_root(gram)
    scores = torch.tensor(
        [
            float((torch.linalg.inv(root[own][:, own]) @ torch.linalg.inv(root[own][:, own])).trace())
            for own in problem.columns
        ]
    )
    assert ZCA()(problem.readers()).order == tuple(scores.argsort(descending=True).tolist())


def test_conditional_variances() -> None:
    problem, gram = plain(1)
    own = problem.columns.flatten()
    scores = (1 / torch.linalg.inv(gram).diagonal())[own]
    assert Conditional()(problem.readers()).order == tuple(scores.argsort(descending=True).tolist())


def test_plain_variance_and_outgoing_weights() -> None:
    problem, gram = plain(2, 4, width=2)
    variance = gram.diagonal()[problem.columns].sum(1)
    weights = problem.weights[0].abs().sum(0)[problem.columns].sum(1)
    assert Variance()(problem.readers()).order == tuple(variance.argsort(descending=True).tolist())
    assert Weights()(problem.readers()).order == tuple(weights.argsort(descending=True).tolist())


def test_pivot_takes_what_is_left_of_the_largest() -> None:
    problem, _ = plain(3)
    x = problem.inputs[0][:, problem.columns.flatten()]
    expected: list[int] = []
    for _ in range(7):
        rest = x - x[:, expected] @ torch.linalg.lstsq(x[:, expected], x).solution if expected else x
        power = (rest**2).sum(0)
        power[expected] = -1
        expected.append(int(power.argmax()))
    assert Pivot()(problem.readers()).order == tuple(expected)


@given(st.integers(0, 10_000), st.integers(2, 8))
def test_the_ldl_diagonal_is_what_each_unit_adds(seed: int, units: int) -> None:
    problem, gram = plain(seed, units)
    order = torch.randperm(units, generator=torch.Generator().manual_seed(seed))
    found = innovations(gram, problem.columns, order)
    x = problem.inputs[0][:, problem.columns.flatten()[order]]
    for i in range(units):
        before = x[:, :i]
        fitted = (
            before @ torch.linalg.lstsq(before, x[:, i : i + 1]).solution if i else torch.zeros(len(x), 1)
        )
        residual = float(((x[:, i : i + 1] - fitted) ** 2).mean())
        assert float(found[i]) == pytest.approx(residual, rel=1e-2, abs=1e-4 * float(gram.diagonal().mean()))


@given(st.integers(0, 10_000), st.integers(2, 7))
def test_pruning_in_the_subspace_is_least_squares(seed: int, units: int) -> None:
    """W P^T L cut to k columns, taken back through the leading block of L, is W C[:, K] C[K, K]^-1."""
    problem, gram = plain(seed, units)
    w = problem.weights[0]
    p = torch.randperm(units, generator=torch.Generator().manual_seed(seed))
    factor = torch.linalg.cholesky(gram[p][:, p])
    lower = factor / factor.diagonal()
    for k in range(1, units):
        kept = p[:k]
        subspace = (w[:, p] @ lower)[:, :k] @ torch.linalg.inv(lower[:k, :k])
        direct = w @ gram[:, kept] @ torch.linalg.inv(gram[kept][:, kept])
        torch.testing.assert_close(subspace, direct, rtol=1e-6, atol=1e-6 * float(w.abs().max()))


@pytest.mark.parametrize("order", GRAM_ORDERS, ids=named)
def test_loss_of_gram_orders_is_the_share_of_variance_that_is_lost(order: Order) -> None:
    problem, gram = plain(4)
    ranking = order(problem.readers())
    added = innovations(gram, problem.columns, torch.tensor(ranking.order))
    kept = added.cumsum(0) / added.sum()
    torch.testing.assert_close(ranking.loss[1:], 1 - kept, atol=1e-9, rtol=1e-6)
    # A lower bound of the true relative error of the inputs (methods, numerical checks).
    x = problem.inputs[0]
    for k in range(1, 7):
        own = problem.columns.flatten()[torch.tensor(ranking.order[:k])]
        rest = x - x[:, own] @ torch.linalg.lstsq(x[:, own], x).solution
        assert float((rest**2).sum()) / len(x) >= float(added[k:].sum()) * (1 - 1e-3)


@pytest.mark.parametrize(("readers", "width"), [(1, 1), (1, 3), (2, 1), (3, 2)])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [2048, 0])
def test_the_loss_of_output_is_the_true_least_squares_error(
    seed: int, readers: int, width: int, limit: int
) -> None:
    problem = Problem.draw(seed, 6, width=width, readers=readers)
    ranking = Output(limit=limit)(problem.readers())
    check_form(ranking, 6)
    for k in range(7):
        true = problem.loss(ranking.order[:k])
        assert float(ranking.loss[k]) == pytest.approx(true, rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("seed", range(4))
def test_output_takes_the_cheapest_unit_at_every_step(seed: int) -> None:
    problem = Problem.draw(seed, 6, readers=2)
    order = Output()(problem.readers()).order
    for k in range(6, 0, -1):
        left = order[:k]
        costs = {u: problem.loss([v for v in left if v != u]) for u in left}
        assert costs[order[k - 1]] == pytest.approx(min(costs.values()), rel=1e-3, abs=1e-5)


def test_output_beats_every_order_on_outputs() -> None:
    """On average over problems: greedy, so not on each."""
    worse = 0.0
    for seed in range(8):
        problem = Problem.draw(seed, 8, rows=2)
        best = problem.loss(Output()(problem.readers()).order[:4])
        worse += min(problem.loss(order(problem.readers()).order[:4]) for order in GRAM_ORDERS) - best
    assert worse > 0


def test_output_is_near_the_best_subset() -> None:
    problem = Problem.draw(5, 7, rows=2)
    found = problem.loss(Output()(problem.readers()).order[:3])
    best = min(problem.loss(kept) for kept in itertools.combinations(range(7), 3))
    assert best <= found <= 2 * best


def test_of_two_equal_units_one_goes_though_several_go_at_a_time() -> None:
    rng = torch.Generator().manual_seed(0)
    half = torch.randn(400, 16, generator=rng, dtype=torch.float64)
    x = torch.cat([half, half + 1e-4 * torch.randn(400, 16, generator=rng, dtype=torch.float64)], 1)
    problem = Problem(
        (x,), (torch.randn(4, 32, generator=rng, dtype=torch.float64),), torch.arange(32)[:, None]
    )
    ranking = Output(share=0.5)(
        problem.readers()
    )  # sixteen at once: without care both of a pair would be among them
    assert {u % 16 for u in ranking.order[:16]} == set(range(16))
    assert problem.loss(ranking.order[:16]) < 1e-5


def test_several_readers_are_weighted_by_their_trace() -> None:
    problem = Problem.draw(0, 5, readers=2)
    a, b = problem.readers()
    gram, columns = joint_gram([a, Reader(b.xx * 1e6, b.weight, b.columns, b.power)])
    torch.testing.assert_close(gram, a.xx / a.xx.trace() + b.xx / b.xx.trace())
    assert torch.equal(columns, problem.columns)


def test_readers_with_other_columns_are_compared_by_unit() -> None:
    problem = Problem.draw(0, 4, width=2)
    flattened = problem.readers()[0]
    single = Problem.draw(1, 4).readers()[0]
    gram, columns = joint_gram([flattened, single])
    assert gram.shape == (4, 4)
    sums = torch.stack([problem.inputs[0][:, own].sum(1) for own in problem.columns])
    joined = sums @ sums.T / sums.shape[1]
    own = single.columns.flatten()
    expected = joined / joined.trace() + single.xx[own][:, own] / single.xx.trace()
    torch.testing.assert_close(gram, expected)
    assert columns.flatten().tolist() == [0, 1, 2, 3]


def test_wide_groups_are_ranked_without_updates() -> None:
    problem = Problem.draw(3, 8, rows=2)
    order = Output(limit=7)(problem.readers()).order
    costs = [problem.loss([v for v in range(8) if v != u]) for u in range(8)]
    assert order[-1] == costs.index(min(costs))
    assert order[0] == costs.index(max(costs))


@pytest.mark.parametrize("limit", [2048, 0])
def test_a_ridge_is_noise_in_every_column(limit: int) -> None:
    """Ranking under a ridge is ranking moments with that much noise added; without one they are as they are."""
    (reader,) = plain(1)[0].readers()
    noise = 0.1 * reader.xx.diagonal().mean() * torch.eye(len(reader.xx), dtype=torch.float64)
    noisy = dataclasses.replace(reader, xx=reader.xx + noise)
    robust, added = Output(limit=limit, ridge=0.1)([reader]), Output(limit=limit)([noisy])
    assert robust.order == added.order
    torch.testing.assert_close(robust.loss, added.loss, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(robust.loss, Output(limit=limit)([reader]).loss, rtol=1e-2)


def test_a_ridge_leaves_what_never_varied_for_nothing() -> None:
    power = torch.tensor(
        [1.0, 1e-4, 2.0, 0.0, 1.0], dtype=torch.float64
    )  # the second hardly, the fourth never
    reader = Reader(power.diag(), torch.ones(1, 5, dtype=torch.float64), torch.arange(5)[:, None], 1.0)
    ranking = Output(ridge=0.1)([reader])
    assert ranking.order[-2:] == (1, 3)
    assert float(ranking.loss[3]) == pytest.approx(1.1e-3, rel=0.01)  # its own, and ten times its own


def test_a_ridge_distrusts_repairs_by_differences() -> None:
    """A unit that the difference of two large ones equals can be repaired by them only until they change a little."""
    rng = torch.Generator().manual_seed(0)
    large, small, weak = torch.randn(3, 4000, generator=rng, dtype=torch.float64)
    x = torch.stack([10 * large, 10 * large + small, small, 0.5 * weak])
    reader = Reader(x @ x.T / 4000, torch.ones(1, 4, dtype=torch.float64), torch.arange(4)[:, None], 1.0)
    assert Output()([reader]).order[-1] != 3  # one of the dependent three costs nothing
    assert Output(ridge=0.1)([reader]).order[-1] == 3


def test_units_with_fewer_columns_are_padded() -> None:
    problem = Problem.draw(0, 5, width=1)
    x, w = problem.inputs[0], problem.weights[0]
    ragged = torch.tensor([[0, 5], [1, 2], [3, 4]])  # five columns: 5 is none
    reader = Reader(x.T @ x / len(x), w, ragged, problem.powers()[0])
    for order in ORDERS:
        ranking = order([reader])
        check_form(ranking, 3)
    ranking = Output(limit=0)([reader])
    own = {0: [0], 1: [1, 2], 2: [3, 4]}
    for k in range(1, 4):
        columns = sorted(c for u in ranking.order[:k] for c in own[u])
        fitted = torch.linalg.lstsq(x[:, columns], x @ w.T).solution
        true = float(((x @ w.T - x[:, columns] @ fitted) ** 2).mean(0).sum()) / problem.powers()[0]
        assert float(ranking.loss[k]) == pytest.approx(true, rel=2e-3, abs=2e-4)


def degenerate_grams() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(100, 6, generator=rng, dtype=torch.float64)
    few = torch.randn(3, 6, generator=rng, dtype=torch.float64)
    dead, duplicate, constant = x.clone(), x.clone(), x.clone()
    dead[:, 2] = 0
    duplicate[:, 3] = duplicate[:, 1]
    constant[:, 4] = 7
    scaled = x * torch.tensor([1e-8, 1e8, 1.0, 1.0, 1e4, 1e-4])
    grams = {"few": few, "dead": dead, "duplicate": duplicate, "constant": constant, "scaled": scaled}
    found = {name: v.T @ v / len(v) for name, v in grams.items()}
    centred = constant - constant.mean(0)
    found["centred constant"] = centred.T @ centred / 100
    found["nothing"] = torch.zeros(6, 6, dtype=torch.float64)
    # Moments of float32 activations about a large mean: rounding makes them indefinite.
    noise = torch.randn(6, 6, generator=rng, dtype=torch.float64) * 1e-3
    found["indefinite"] = found["few"] + noise + noise.T
    found["negative"] = torch.diag(torch.tensor([1.0, -1e-3, 0.5, 0.0, 2.0, -1.0], dtype=torch.float64))
    return found


@pytest.mark.parametrize("order", ORDERS, ids=named)
@pytest.mark.parametrize("name", list(degenerate_grams()))
def test_degenerate_moments_give_a_ranking(order: Order, name: str) -> None:
    check_form(order([gram_reader(degenerate_grams()[name])]), 6)


@pytest.mark.parametrize("order", ORDERS, ids=named)
def test_dead_units_go_first(order: Order) -> None:
    ranking = order([gram_reader(degenerate_grams()["dead"])])
    assert ranking.order[-1] == 2
    assert float(ranking.loss[5]) < 1e-5


@pytest.mark.parametrize("order", [Conditional(), Pivot(), Output()], ids=named)
def test_of_two_equal_units_one_goes_first_and_costs_nothing(order: Order) -> None:
    ranking = order([gram_reader(degenerate_grams()["duplicate"])])
    assert ranking.order[-1] in (1, 3)
    assert float(ranking.loss[5]) < 1e-5


@pytest.mark.parametrize("order", ORDERS, ids=named)
def test_the_same_readers_give_the_same_ranking(order: Order) -> None:
    problem = Problem.draw(9, 8)
    first, second = order(problem.readers()), order(problem.readers())
    assert first.order == second.order
    assert torch.equal(first.loss, second.loss)


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 2), st.integers(1, 2), st.integers(1, 30))
def test_every_order_ranks_whatever_it_is_given(
    seed: int, units: int, width: int, readers: int, samples: int
) -> None:
    problem = Problem.draw(seed, units, width=width, readers=readers, samples=samples)
    for order in ORDERS:
        ranking = order(problem.readers())
        check_form(ranking, units)
        assert not math.isnan(float(ranking.loss.sum()))
