"""Least squares under a pattern, against the same problem written out with one unknown for each block and weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.blocks import KEEP, UNIFY, ZERO, Block, BlockPattern, Partition, Reshape
from secateur.graph import trace
from secateur.ground.errors import StructureError
from secateur.recovery.compensate import job as job_of
from secateur.recovery.in_blocks import InBlocks
from secateur.recovery.least_squares import Moments, mean_squared_error

CONVOLUTIONS = {
    "linear": (nn.Linear(6, 5), (6,)),
    "plain": (nn.Conv2d(3, 5, (1, 3)), (3, 4, 5)),
    "grouped": (nn.Conv1d(4, 6, 2, groups=2), (4, 6)),
    "depthwise": (nn.Conv1d(6, 6, 3, groups=6), (6, 7)),
    "transposed": (nn.ConvTranspose1d(4, 6, 2, groups=2), (4, 6)),
}


def problem(
    name: str, block: Block, seed: int, intercept: bool
) -> tuple[InBlocks, Moments, Tensor, BlockPattern, object]:
    layer, shape = CONVOLUTIONS[name]
    rng = torch.Generator().manual_seed(seed)
    graph = trace(layer.eval(), torch.zeros(2, *shape))
    (found,) = graph.layers
    job = job_of(graph, found)
    partition = Partition(block, tuple(layer.weight.shape), found.groups, found.inputs_first)
    states = torch.randint(0, 3, partition.grid, generator=rng).to(torch.int8)
    pattern = BlockPattern(partition, states)
    weight = pattern.project(torch.randn(layer.weight.shape, generator=rng).double())
    start = job.split(weight)
    if intercept:
        start = torch.cat([start, start.new_zeros(*start.shape[:2], 1)], 2)
    g, m, d = start.shape
    n = 3 * d + 40
    x = torch.randn(g, n, d, generator=rng, dtype=torch.float64)
    y = x @ torch.randn(g, d, m, generator=rng, dtype=torch.float64)
    y = y + 0.3 * torch.randn(g, n, m, generator=rng, dtype=torch.float64)
    moments = Moments(x.mT @ x / n, y.mT @ x / n, (y**2).mean(1), n)
    return InBlocks(job, pattern, start), moments, start, pattern, job


def written_out(job: object, pattern: BlockPattern, start: Tensor) -> Tensor:
    """Return the columns of free directions of all weights, (unknowns, g, m, d)."""
    partition = pattern.partition
    directions = []
    numbers = partition.spread(torch.arange(partition.count).view(partition.grid))
    owner = job.split(numbers)  # type: ignore[attr-defined]
    states = job.split(partition.spread(pattern.states))  # type: ignore[attr-defined]
    width = states.shape[2]
    sign = torch.where(start < 0, -1.0, 1.0).double()[:, :, :width]
    for i in range(partition.count):
        inside, state = owner == i, int(pattern.states.flatten()[i])
        if state == UNIFY:
            directions.append(torch.where(inside, sign, 0.0))
        elif state == KEEP:
            directions += [
                torch.zeros_like(sign).index_put((a, b, c), torch.ones((), dtype=torch.float64))
                for a, b, c in (p.unbind() for p in inside.nonzero())
            ]
    if start.shape[2] > width:
        directions = [torch.cat([d, d.new_zeros(*d.shape[:2], 1)], 2) for d in directions]
        for a, b in torch.ones(start.shape[:2]).nonzero().tolist():
            one = torch.zeros_like(start)
            one[a, b, -1] = 1
            directions.append(one)
    return torch.stack(directions) if directions else start.new_zeros(0, *start.shape)


def oracle(
    moments: Moments, start: Tensor, directions: Tensor, strength: float, positive: Tensor | None = None
) -> Tensor:
    shift = strength * moments.xx.diagonal(dim1=1, dim2=2).mean(1)
    xx = moments.xx + shift[:, None, None] * torch.eye(start.shape[2], dtype=torch.float64)
    b = moments.yx + shift[:, None, None] * start
    A = torch.einsum("pgmd,gde,qgme->pq", directions, xx, directions)
    r = torch.einsum("pgmd,gmd->p", directions, b)
    return torch.einsum("p,pgmd->gmd", torch.linalg.lstsq(A, r, driver="gelsd").solution, directions)


BLOCKS = [
    Block(2, 1),
    Block(3, 1),
    Block(1, 2),
    Block(2, 2),
    Block(2, 1, reshape=Reshape.OUTPUTS),
    Block(1, 2, reshape=Reshape.INPUTS),
]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(CONVOLUTIONS)),
    st.sampled_from(BLOCKS),
    st.integers(0, 10_000),
    st.booleans(),
    st.sampled_from([1e-6, 0.1]),
)
def test_it_is_the_least_of_all_weights_that_obey(
    name: str, block: Block, seed: int, intercept: bool, strength: float
) -> None:
    try:
        solver, moments, start, pattern, job = problem(name, block, seed, intercept)
    except StructureError:  # this layer is smaller than the block
        reject()
    found = solver(moments, moments, moments, start, (strength,))
    directions = written_out(job, pattern, start)
    best = oracle(moments, start, directions, strength)
    signs = torch.where(start < 0, -1.0, 1.0).double()
    unified = torch.zeros_like(start, dtype=torch.bool)
    unified[:, :, : job.width] = job.split(pattern.unified()) > 0  # type: ignore[attr-defined]
    before = mean_squared_error(moments, start).sum()
    after = mean_squared_error(moments, found).sum()
    assert after <= before + 1e-12  # law 4
    assert bool(((found * signs)[unified] >= 0).all())
    if bool(((best * signs)[unified] >= 0).all()):
        torch.testing.assert_close(found, best, rtol=1e-6, atol=1e-8)
    weight = job.merge(torch.zeros(pattern.partition.shape).double(), found[:, :, : job.width])  # type: ignore[attr-defined]
    torch.testing.assert_close(pattern.project(weight), weight, rtol=1e-12, atol=1e-12)
    assert bool((weight[~pattern.mask()] == 0).all())


@pytest.mark.parametrize("seed", range(3))
def test_a_ridge_that_only_fits_is_not_taken(seed: int) -> None:
    """Held-out moments of another target leave the weights as they were."""
    solver, moments, start, _, _ = problem("plain", Block(2, 1), seed, False)
    exact = Moments(moments.xx, start @ moments.xx, (start * (start @ moments.xx)).sum(-1), 1)
    assert torch.equal(solver(moments, exact, moments, start, (1e-6, 1e-2, 1.0)), start)
    found = solver(moments, moments, moments, start, (1e-6, 1e-2, 1.0))
    assert mean_squared_error(moments, found).sum() < mean_squared_error(moments, start).sum()


def test_rows_that_are_fixed_keep_their_free_weights() -> None:
    solver, moments, start, pattern, job = problem("linear", Block(2, 1), 1, False)
    fixed = torch.zeros(1, 5, dtype=torch.bool)
    fixed[0, 2] = True
    found = solver(moments, moments, moments, start, (1e-6,), fixed)
    free = job.split(pattern.states.new_ones(1) * 0 + (pattern.mask() & ~pattern.unified()))[0, 2] > 0  # type: ignore[attr-defined]
    assert torch.equal(found[0, 2][free], start[0, 2][free])
    assert not torch.equal(found, start)
    assert ZERO in pattern.states.flatten().tolist()
