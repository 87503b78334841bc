"""Orders in which units are orthogonalised: which unit counts first (SNP, arXiv 2405.17506, and beyond).

The Gram orders (`ZCA`, `Conditional`, `Pivot`, `Variance`, `Weights`) look at second moments ``C`` of the units
and rank by one score; what is kept after k units is the cumulative sum of the LDL diagonal ``D`` in that order,
the variance that each unit adds to those before it. `Output` looks at what the consumers make of the units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .ranking import Ranking, Reader, dead_units, from_scores

__all__ = ["ZCA", "Conditional", "Output", "Pivot", "Variance", "Weights", "innovations", "joint_gram"]

JITTER = 1e-6  # of the mean diagonal, before every factorisation of a Gram matrix
BEYOND = 100.0  # a ridge adds at most that many times the share of a column's own second moment
ATTEMPTS = 8  # each with ten times the jitter: moments summed from float32 activations may be indefinite


def joint_gram(readers: Sequence[Reader]) -> tuple[Tensor, Tensor]:
    """Return the Gram matrix over all columns of all readers, each by its trace, and the columns of each unit.

    A group that several consumers read is ranked by ``sum_t C_t / trace(C_t)``. Readers with different columns
    (one reads single channels, another flattened maps) cannot be added, so their units are averaged first.
    """
    first = readers[0]
    alike = all(torch.equal(r.columns, first.columns) and r.xx.shape == first.xx.shape for r in readers)
    grams = [r.xx if alike else _unit_gram(r) for r in readers]
    columns = first.columns
    if not alike:
        columns = torch.arange(len(columns), device=columns.device)[:, None]
    total = sum(
        (g / g.trace().clamp_min(torch.finfo(g.dtype).tiny) for g in grams), torch.zeros_like(grams[0])
    )
    return total, columns


def _unit_gram(reader: Reader) -> Tensor:
    n, d = len(reader.columns), len(reader.xx)
    sums = reader.xx.new_zeros(n, d + 1)
    sums.scatter_(1, reader.columns, 1.0)
    sums = sums[:, :d]
    return sums @ reader.xx @ sums.T


def _stabilised(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrix with the least jitter with which it is positive definite, and its Cholesky factor."""
    scale = gram.diagonal().abs().mean()
    jitter = JITTER * scale if scale > 0 else scale.new_ones(())
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for _ in range(ATTEMPTS):
        matrix = gram + jitter * eye
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed:
            return matrix, factor
        jitter = jitter * 10
    matrix = (
        gram.diagonal().clamp_min(0).diag() + jitter * eye
    )  # nothing is left to be said but the variances
    return matrix, torch.linalg.cholesky(matrix)


def innovations(gram: Tensor, columns: Tensor, order: Tensor) -> Tensor:
    """Return for each unit in `order` the variance left after regression on all units before it.

    These are the (block sums of the) diagonal ``D`` of the LDL factorisation of the permuted Gram matrix: with
    ``P C P^T = L D L^T``, ``xhat = L^-1 P x`` has covariance ``D`` (unnormalised Gram-Schmidt).
    """
    d = len(gram)
    sequence = columns[order]
    flat = sequence.reshape(-1)
    real = flat < d
    _, factor = _stabilised(gram[flat[real]][:, flat[real]])
    pivots = factor.diagonal() ** 2
    spread = gram.new_zeros(len(flat))
    spread[real] = pivots
    return spread.view(sequence.shape).sum(1)


def _rank(readers: Sequence[Reader], scores: Tensor, gram: Tensor, columns: Tensor) -> Ranking:
    scores = torch.where(dead_units(readers), torch.zeros_like(scores), scores)
    order = torch.argsort(scores, descending=True, stable=True)
    added = gram.new_empty(len(order))
    added[order] = innovations(gram, columns, order)
    return from_scores(scores, added)


def _block(matrix: Tensor, columns: Tensor) -> Tensor:
    """Return the diagonal block of each unit, (units, b, b); padded rows and columns are those of the identity."""
    d, b = len(matrix), columns.shape[1]
    padded = matrix.new_zeros(d + 1, d + 1)
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
        values, vectors = torch.linalg.eigh(_stabilised(gram)[0])
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
        precision = torch.cholesky_inverse(_stabilised(gram)[1])
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
        scores = gram.new_zeros(len(columns))
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
        residual = gram.new_zeros(d + 1, d + 1)
        residual[:d, :d], _ = _stabilised(gram)
        left, order = torch.ones(n, dtype=torch.bool, device=gram.device), []
        for _ in range(n):
            power = residual.diagonal()[columns].sum(1)
            unit = int(torch.where(left, power, power.new_full((), -1)).argmax())
            left[unit] = False
            order.append(unit)
            own = columns[unit][columns[unit] < d]
            block = residual[own][:, own]
            block = block + 1e-12 * block.diagonal().mean() * torch.eye(
                len(own), dtype=gram.dtype, device=gram.device
            )
            residual -= residual[:, own] @ torch.linalg.solve(block, residual[own])
        scores = gram.new_empty(n)
        scores[columns.new_tensor(order)] = torch.arange(n, 0, -1, dtype=gram.dtype, device=gram.device)
        return _rank(readers, scores, gram, columns)


@dataclass(frozen=True)
class Output:
    """Backward elimination by what the consumers lose: always the unit whose loss the rest repairs best.

    With ``P = C^-1`` over the units still there and the consumer's weights ``W`` refitted to them, taking out
    the columns g raises the least-squares error of its output by ``tr(W_g P_gg^-1 W_g^T)`` (the update of optimal
    brain surgeon, for all rows at once). The error is summed over consumers, each in units of its output's power.
    Ties fall to the higher index. Needs memory for one d x d matrix a consumer. Wide groups take a bounded number
    of steps: `share` of the units left (1 at least; more above 512 units) go before all others are updated. They
    are picked one by one, with exact updates, among up to four times as many that cost least at that moment, so
    that of two equal units only one goes. Above `limit` units nothing is updated: units are ordered by what each
    would cost alone, and the losses along this order, exact ones, come out of one more Cholesky factorisation.

    With a `ridge` the moments are shrunk towards equal ones, as by Ledoit and Wolf (2004): every column is expected to
    vary by that share of the mean beyond what was seen, but by at most `BEYOND` times its own, so that what never
    varied costs nothing. Units that others could replace on the calibration data, but only by large and opposed
    weights, then count more, and so do those that seldom spoke there. Losses are those under the ridge.
    """

    share: float = 1 / 128
    limit: int = 2048
    ridge: float = 0.0

    def __call__(self, readers: Sequence[Reader]) -> Ranking:
        """Rank the units of a group."""
        dead = dead_units(readers)
        readers = [_noisy(r, self.ridge) for r in readers]
        states = [_Elimination.start(r) for r in readers]
        if len(dead) > self.limit:
            order = _cheapest_first(states, torch.arange(len(dead), device=dead.device), dead).flip(0)
            return Ranking(tuple(order.tolist()), _losses(readers, order))
        share = min(self.share * max(1.0, (len(dead) / 512) ** 2), 0.25)
        known = torch.arange(len(dead), device=dead.device)  # units that the states hold
        left = known  # positions in them of what is left
        removed: list[int] = []
        loss = [0.0]
        while len(left):
            if 2 * len(left) <= len(known):  # the removed half of every matrix is zero
                states = [s.restricted(left) for s in states]
                known, dead, left = known[left], dead[left], torch.arange(len(left), device=dead.device)
            count = max(1, int(len(left) * share))
            near = left[_cheapest_first(states, left, dead)[: count + min(3 * count, 256)]]
            among = [s.restricted(near) for s in states]
            rest = torch.arange(len(near), device=dead.device)
            gone = near[:0]
            for _ in range(count):
                best = _cheapest_first(among, rest, dead[near])[:1]
                loss.append(loss[-1] + max(sum(s.remove(rest[best]) for s in among), 0.0))
                gone = torch.cat([gone, near[rest[best]]])
                rest = rest[rest != rest[best]]
            for s in states:
                s.remove(gone)
            removed += known[gone].tolist()
            left = left[~torch.isin(left, gone)]
        return Ranking(tuple(reversed(removed)), torch.tensor(loss, dtype=torch.float64).flip(0))


def _noisy(reader: Reader, share: float) -> Reader:
    """Return the reader with independent noise in every column, a share of the mean second moment."""
    power = reader.xx.diagonal()
    noise = share * torch.minimum(power.mean(), BEYOND * power)
    return replace(reader, xx=reader.xx + noise.clamp_min(0).diag()) if share else reader


def _losses(readers: Sequence[Reader], order: Tensor) -> Tensor:
    """Return what the consumers lose when only the first k units of an order are kept, (units + 1,).

    With ``P C P^T = F F^T`` the units are ``P x = F z``, ``z`` white and each ``z_i`` made from the first i units
    alone. So the best repair of ``W x`` by the first k is ``W P^T F`` applied to the first k of ``z``, and the
    squares of its other columns are lost.
    """
    lost = torch.zeros(len(order) + 1, dtype=torch.float64, device=order.device)
    for reader in readers:
        sequence = reader.columns[order]
        flat = sequence.reshape(-1)
        real = flat < len(reader.xx)
        own = flat[real]
        _, factor = _stabilised(reader.xx[own][:, own])
        squares = reader.xx.new_zeros(len(flat))
        squares[real] = (reader.weight[:, own] @ factor).square().sum(0)
        by_unit = squares.view(sequence.shape).sum(1) / max(reader.power, torch.finfo(torch.float64).tiny)
        lost[:-1] += by_unit.flip(0).cumsum(0).flip(0)
    return lost.cpu()


def _cheapest_first(states: Sequence[_Elimination], units: Tensor, dead: Tensor) -> Tensor:
    """Return the positions in `units`, those first whose loss costs least; `dead` is by unit."""
    cost = torch.stack([s.costs(units) for s in states]).sum(0).clamp_min(0)
    cost = torch.where(dead[units], cost.new_full((), -1.0), cost)
    return len(units) - 1 - torch.argsort(cost.flip(0), stable=True)


@dataclass
class _Elimination:
    """One reader during backward elimination: precision matrix and refitted weights, updated in place.

    The last column of both is empty: units with fewer columns than others are padded with it.
    """

    precision: Tensor  # (d + 1, d + 1)
    weight: Tensor  # (rows, d + 1)
    columns: Tensor  # (units, b)
    power: float

    @staticmethod
    def start(reader: Reader) -> _Elimination:
        d = len(reader.xx)
        precision = torch.eye(d + 1, dtype=torch.float64, device=reader.xx.device)
        precision[:d, :d] = torch.cholesky_inverse(_stabilised(reader.xx)[1])
        weight = torch.cat([reader.weight, reader.weight.new_zeros(len(reader.weight), 1)], 1)
        return _Elimination(
            precision, weight, reader.columns, max(reader.power, torch.finfo(torch.float64).tiny)
        )

    def restricted(self, units: Tensor) -> _Elimination:
        """Return a copy of only these units, numbered anew: the updates among them need no others."""
        empty = len(self.precision) - 1
        own = self.columns[units]
        index = torch.cat([own[own < empty], own.new_tensor([empty])])
        place = own.new_empty(empty + 1)
        place[index] = torch.arange(len(index), device=own.device)
        precision = self.precision[index[:, None], index]
        return _Elimination(precision, self.weight[:, index], place[own], self.power)

    def costs(self, units: Tensor) -> Tensor:
        """Return what each unit would cost alone, (units,)."""
        own = self.columns[units]
        if own.shape[1] == 1:  # blocks of one entry; that of the empty column is one
            squares = self.weight.square().sum(0)
            return (squares / self.precision.diagonal())[own[:, 0]] / self.power
        padded = own == len(self.precision) - 1
        blocks = self.precision[own[:, :, None], own[:, None, :]]
        eye = torch.eye(own.shape[1], dtype=blocks.dtype, device=blocks.device)
        blocks = torch.where(padded[:, :, None] | padded[:, None, :], eye, blocks)
        weights = self.weight[:, own].permute(1, 2, 0)
        solved: Tensor = torch.linalg.solve(blocks, weights)
        return (weights * solved).sum((1, 2)) / self.power

    def remove(self, units: Tensor) -> float:
        """Take units out, refit the weights to the others, and return what that cost."""
        own = self.columns[units].reshape(-1)
        own = own[own < len(self.precision) - 1]
        weights = self.weight[:, own]
        rows = self.precision[own]
        solved = torch.linalg.solve(rows[:, own], torch.cat([rows, weights.T], 1))
        solved, gains = solved.split([len(self.precision), len(weights)], 1)
        cost = float((weights * gains.T).sum()) / self.power
        self.weight.addmm_(weights, solved, alpha=-1)
        self.precision.addmm_(rows.T, solved, alpha=-1)
        self.weight[:, own] = 0
        self.precision[own] = 0  # exactly, so that nothing of it comes back in later solves
        self.precision[:, own] = 0
        return cost
