"""Orders in which units are orthogonalised: which unit counts first (SNP, arXiv 2405.17506, and beyond).

The Gram orders (`ZCA`, `Conditional`, `Pivot`, `Variance`, `Weights`) look at second moments ``C`` of the units
and rank by one score; what is kept after k units is the cumulative sum of the LDL diagonal ``D`` in that order,
the variance that each unit adds to those before it. `Output` looks at what the consumers make of the units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .ranking import Ranking, Reader, dead_units, from_scores

__all__ = ["ZCA", "Conditional", "Output", "Pivot", "Variance", "Weights", "innovations", "joint_gram"]

JITTER = 1e-6  # of the mean diagonal, before every factorisation of a Gram matrix


def joint_gram(readers: Sequence[Reader]) -> tuple[Tensor, Tensor]:
    """Return the Gram matrix over all columns of all readers, each by its trace, and the columns of each unit.

    A group that several consumers read is ranked by ``sum_t C_t / trace(C_t)``. Readers with different columns
    (one reads single channels, another flattened maps) cannot be added, so their units are averaged first.
    """
    first = readers[0]
    alike = all(torch.equal(r.columns, first.columns) and r.xx.shape == first.xx.shape for r in readers)
    grams = [r.xx if alike else _unit_gram(r) for r in readers]
    columns = first.columns if alike else torch.arange(len(first.columns))[:, None]
    total = sum((g / g.trace().clamp_min(torch.finfo(g.dtype).tiny) for g in grams), torch.zeros_like(grams[0]))
    return total, columns


def _unit_gram(reader: Reader) -> Tensor:
    n, d = len(reader.columns), len(reader.xx)
    sums = torch.zeros(n, d + 1, dtype=reader.xx.dtype)
    sums.scatter_(1, reader.columns, 1.0)
    sums = sums[:, :d]
    return sums @ reader.xx @ sums.T


def _stabilised(gram: Tensor) -> Tensor:
    scale = gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    return gram + JITTER * scale * torch.eye(len(gram), dtype=gram.dtype)


def innovations(gram: Tensor, columns: Tensor, order: Tensor) -> Tensor:
    """Return for each unit in `order` the variance left after regression on all units before it.

    These are the (block sums of the) diagonal ``D`` of the LDL factorisation of the permuted Gram matrix: with
    ``P C P^T = L D L^T``, ``xhat = L^-1 P x`` has covariance ``D`` (unnormalised Gram-Schmidt).
    """
    d = len(gram)
    sequence = columns[order]
    flat = sequence.reshape(-1)
    real = flat < d
    permuted = _stabilised(gram)[flat[real]][:, flat[real]]
    pivots = torch.linalg.cholesky(permuted).diagonal() ** 2
    spread = torch.zeros(len(flat), dtype=gram.dtype)
    spread[real] = pivots
    return spread.view(sequence.shape).sum(1)


def _rank(readers: Sequence[Reader], scores: Tensor, gram: Tensor, columns: Tensor) -> Ranking:
    scores = torch.where(dead_units(readers), torch.zeros_like(scores), scores)
    order = torch.argsort(scores, descending=True, stable=True)
    added = torch.empty(len(order), dtype=gram.dtype)
    added[order] = innovations(gram, columns, order)
    return from_scores(scores, added)


def _block(matrix: Tensor, columns: Tensor) -> Tensor:
    """Return the diagonal block of each unit, (units, b, b); padded rows and columns are those of the identity."""
    d, b = len(matrix), columns.shape[1]
    padded = torch.zeros(d + 1, d + 1, dtype=matrix.dtype)
    padded[:d, :d] = matrix
    blocks = padded[columns[:, :, None], columns[:, None, :]]
    missing = columns == d
    return blocks + torch.diag_embed(missing.to(matrix.dtype).view(-1, b))


@dataclass(frozen=True)
class ZCA:
    """Unnormalised ZCA: ``score_i = 1 / ((C^-1/2)_ii)^2``, the order of the paper.

    For units of several columns (heads) the score is ``trace(((C^-1/2)_gg)^-2)``.
    """

    def __call__(self, readers: Sequence[Reader]) -> Ranking:
        """Rank the units of a group."""
        gram, columns = joint_gram(readers)
        values, vectors = torch.linalg.eigh(_stabilised(gram))
        root = (vectors * values.clamp_min(1e-12 * values.max()).rsqrt()) @ vectors.T
        blocks = torch.linalg.inv(_block(root, columns))
        scores = (blocks @ blocks).diagonal(dim1=1, dim2=2)
        scores = torch.where(columns < len(gram), scores, torch.zeros_like(scores)).sum(1)
        return _rank(readers, scores, gram, columns)


@dataclass(frozen=True)
class Conditional:
    """Variance that remains of a unit given all others, ``1 / (C^-1)_ii``."""

    def __call__(self, readers: Sequence[Reader]) -> Ranking:
        """Rank the units of a group."""
        gram, columns = joint_gram(readers)
        precision = torch.cholesky_inverse(torch.linalg.cholesky(_stabilised(gram)))
        scores = torch.linalg.inv(_block(precision, columns)).diagonal(dim1=1, dim2=2)
        scores = torch.where(columns < len(gram), scores, torch.zeros_like(scores)).sum(1)
        return _rank(readers, scores, gram, columns)


@dataclass(frozen=True)
class Variance:
    """Plain second moment of a unit."""

    def __call__(self, readers: Sequence[Reader]) -> Ranking:
        """Rank the units of a group."""
        gram, columns = joint_gram(readers)
        diagonal = torch.cat([gram.diagonal(), gram.new_zeros(1)])
        return _rank(readers, diagonal[columns].sum(1), gram, columns)


@dataclass(frozen=True)
class Weights:
    """Sum of the absolute weights with which consumers read a unit (outgoing L1 norm)."""

    def __call__(self, readers: Sequence[Reader]) -> Ranking:
        """Rank the units of a group."""
        gram, columns = joint_gram(readers)
        scores = torch.zeros(len(columns), dtype=gram.dtype)
        for reader in readers:
            outgoing = torch.cat([reader.weight.abs().sum(0), reader.weight.new_zeros(1)])
            scores += outgoing[reader.columns].sum(1)
        return _rank(readers, scores, gram, columns)


@dataclass(frozen=True)
class Pivot:
    """Pivoted Cholesky: greedily the unit with the largest variance left after those already taken."""

    def __call__(self, readers: Sequence[Reader]) -> Ranking:
        """Rank the units of a group."""
        gram, columns = joint_gram(readers)
        n, d = len(columns), len(gram)
        residual = torch.zeros(d + 1, d + 1, dtype=gram.dtype)
        residual[:d, :d] = _stabilised(gram)
        left, order = torch.ones(n, dtype=torch.bool), []
        for _ in range(n):
            power = residual.diagonal()[columns].sum(1)
            unit = int(torch.where(left, power, power.new_full((), -1)).argmax())
            left[unit] = False
            order.append(unit)
            own = columns[unit][columns[unit] < d]
            block = residual[own][:, own]
            block = block + 1e-12 * block.diagonal().mean() * torch.eye(len(own), dtype=gram.dtype)
            residual -= residual[:, own] @ torch.linalg.solve(block, residual[own])
        scores = torch.empty(n, dtype=gram.dtype)
        scores[torch.tensor(order)] = torch.arange(n, 0, -1, dtype=gram.dtype)
        return _rank(readers, scores, gram, columns)


@dataclass(frozen=True)
class Output:
    """Backward elimination by what the consumers lose: always the unit whose loss the rest repairs best.

    With ``P = C^-1`` over the units still there and the consumer's weights ``W`` refitted to them, taking out
    the columns g raises the least-squares error of its output by ``tr(W_g P_gg^-1 W_g^T)`` (the update of optimal
    brain surgeon, for all rows at once). The error is summed over consumers, each in units of its output's power.
    Ties fall to the higher index. Needs memory for one d x d matrix a consumer; `share` units go at a time, 1
    at least, so that wide groups take a bounded number of steps.
    """

    share: float = 1 / 128

    def __call__(self, readers: Sequence[Reader]) -> Ranking:
        """Rank the units of a group."""
        n = len(readers[0].columns)
        states = [_Elimination(r) for r in readers]
        dead = dead_units(readers)
        left = list(range(n))
        removed: list[int] = []
        loss = [0.0]
        while left:
            units = torch.tensor(left)
            cost = torch.stack([s.costs(units) for s in states]).sum(0).clamp_min(0)
            cost = torch.where(dead[units], cost.new_full((), -1.0), cost)
            count = max(1, int(len(left) * self.share))
            chosen = torch.argsort(cost.flip(0), stable=True)[:count]
            chosen = len(left) - 1 - chosen
            taken = units[chosen]
            before = loss[-1]
            together = sum(s.remove(taken) for s in states)
            single = cost[chosen].clamp_min(0)
            # Units that go together share their joint error in proportion to what each would have cost alone.
            portions = single.cumsum(0) / single.sum().clamp_min(torch.finfo(single.dtype).tiny)
            loss += [before + float(together) * float(p) for p in portions]
            removed += taken.tolist()
            left = [u for u in left if u not in set(taken.tolist())]
        return Ranking(tuple(reversed(removed)), torch.tensor(loss, dtype=torch.float64).flip(0))


class _Elimination:
    """One reader during backward elimination: its precision matrix and refitted weights, updated in place."""

    def __init__(self, reader: Reader) -> None:
        d = len(reader.xx)
        gram = torch.eye(d + 1, dtype=torch.float64)  # one empty column more, for units with fewer columns
        gram[:d, :d] = _stabilised(reader.xx)
        self.precision = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        self.weight = torch.cat([reader.weight, reader.weight.new_zeros(len(reader.weight), 1)], 1)
        self.columns = reader.columns
        self.power = max(reader.power, torch.finfo(torch.float64).tiny)

    def costs(self, units: Tensor) -> Tensor:
        own = self.columns[units]
        blocks = self.precision[own[:, :, None], own[:, None, :]]
        blocks = torch.where(
            (own == len(self.precision) - 1)[:, :, None] | (own == len(self.precision) - 1)[:, None, :],
            torch.eye(own.shape[1], dtype=blocks.dtype),
            blocks,
        )
        weights = self.weight[:, own].permute(1, 2, 0)
        return (weights * torch.linalg.solve(blocks, weights)).sum((1, 2)) / self.power

    def remove(self, units: Tensor) -> Tensor:
        own = self.columns[units].reshape(-1)
        own = own[own < len(self.precision) - 1]
        solved = torch.linalg.solve(self.precision[own][:, own], self.precision[own])
        weights = self.weight[:, own]
        cost = (weights @ torch.linalg.solve(self.precision[own][:, own], weights.T)).trace() / self.power
        self.weight -= weights @ solved
        self.precision -= self.precision[:, own] @ solved
        self.weight[:, own] = 0
        # A removed column must not blow up later solves.
        self.precision[own] = 0
        self.precision[:, own] = 0
        return cost
