"""Least squares inside of a pattern: kept weights are free, zero ones are zero, unified blocks have one unknown.

Row by row the mean squared error of weights ``w`` is ``w xx w^T - 2 w yx^T + yy``. Rows that share no unified block
are solved by themselves on their free columns ``K``. Where rows share blocks, their free weights are eliminated first:
with ``H = xx[U, U] - xx[U, K] xx[K, K]^-1 xx[K, U]`` and signs ``s`` the magnitudes ``v`` minimise
``v^T (sum_r S_r H S_r) v - 2 v^T sum_r S_r b_r``, a small system, and the free weights follow. This is exact, where
column-by-column updates (optimal brain surgeon, SparseGPT) are greedy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.blocks import UNIFY, ZERO, BlockPattern, Reshape

from .jobs import Job
from .least_squares import Moments

__all__ = ["InBlocks"]


@dataclass(frozen=True)
class _Class:
    """Rows of one group with the same free columns and the same unified blocks."""

    rows: Tensor
    group: int
    free: Tensor
    unified: Tensor
    blocks: Tensor  # of each unified column, counted within the part


class InBlocks:
    """Solves a layer under a pattern. Rows are (groups, outputs) in order; a last free column takes a constant."""

    def __init__(self, job: Job, pattern: BlockPattern, start: Tensor) -> None:
        partition = pattern.partition
        states = partition.spread(pattern.states)
        numbers = partition.spread(torch.arange(partition.count).view(partition.grid))
        g, m = job.outputs.shape
        self._shape = start.shape
        more = start.shape[2] - job.width
        owner = torch.where(states == UNIFY, numbers, -1)
        free = (states != ZERO) & (states != UNIFY)
        self._owner, self._free = (
            _widened(job.split(what), more, beyond).flatten(0, 1).to(start.device)
            for what, beyond in ((owner, -1), (free, 1))
        )
        self._owner, self._free = self._owner.long(), self._free > 0
        self._sign = torch.where(start < 0, -1.0, 1.0).double().flatten(0, 1)
        self._group = torch.arange(g, device=start.device).repeat_interleave(m)
        self._parts = [self._classes(rows.to(start.device)) for rows in _parts(pattern, g, m)]

    def __call__(
        self,
        fit: Moments,
        held: Moments,
        whole: Moments,
        start: Tensor,
        strengths: Sequence[float],
        fixed: Tensor | None = None,
    ) -> Tensor:
        """Return the weights (g, m, d); each part of the rows has the ridge that is best on the held-out moments.

        Ridges pull towards `start`, which obeys the pattern and stays where nothing is better. Rows that are `fixed`
        (g, m) stay as they are.
        """
        best = start.flatten(0, 1).clone()
        settled = _settled(whole, start, fixed)
        fitted, judged = _settled(fit, start, fixed), _settled(held, start, fixed)
        for classes in self._parts:
            rows = torch.cat([c.rows for c in classes])
            before = best[rows]
            strength = strengths[0]
            if len(strengths) > 1:
                errors = [
                    _error(judged, self._solved(classes, fitted, start, e), rows, self._group)
                    for e in strengths
                ]
                least = min(range(len(errors)), key=errors.__getitem__)
                if errors[least] >= _error(judged, best, rows, self._group):
                    continue
                strength = strengths[least]
            found = self._solved(classes, settled, start, strength)
            if _error(settled, found, rows, self._group) < _error(settled, best, rows, self._group):
                best[rows] = found[rows]
            if fixed is not None:
                still = fixed.flatten()[rows]
                # Free weights of a fixed row stay; its unified ones go with their blocks.
                keep = still[:, None] & self._free[rows]
                best[rows] = torch.where(keep, before, best[rows])
        return best.view(self._shape)

    def _classes(self, rows: Tensor) -> list[_Class]:
        key = torch.cat([self._free[rows].long(), self._owner[rows], self._group[rows, None]], 1)
        alike = bool((key == key[0]).all())
        kinds = torch.zeros_like(rows) if alike else key.unique(dim=0, return_inverse=True)[1]
        ids = self._owner[rows].unique()
        ids = ids[ids >= 0]
        classes = []
        for kind in range(int(kinds.max()) + 1):
            own = rows[kinds == kind]
            unified = (self._owner[own[0]] >= 0).nonzero().flatten()
            blocks = torch.searchsorted(ids, self._owner[own[0], unified])
            free = self._free[own[0]].nonzero().flatten()
            classes.append(_Class(own, int(self._group[own[0]]), free, unified, blocks))
        return classes

    def _solved(self, classes: list[_Class], moments: Moments, start: Tensor, strength: float) -> Tensor:
        """Return all rows (g * m, d), those of the part solved, the others 0."""
        d = self._shape[2]
        result = start.new_zeros(len(self._group), d)
        n = 1 + max((int(c.blocks.max()) for c in classes if len(c.blocks)), default=-1)
        A, r = start.new_zeros(n, n), start.new_zeros(n)
        systems = []
        yx, first = moments.yx.flatten(0, 1), start.flatten(0, 1)
        for c in classes:
            xx = moments.xx[c.group]
            shift = strength * float(xx.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny))
            b = yx[c.rows] + shift * first[c.rows]
            factor = _factor(xx[c.free][:, c.free], shift)
            if factor is None:
                result[c.rows] = first[c.rows]
                continue
            across = xx[c.free][:, c.unified]
            systems.append((c, factor, across, b))
            if len(c.unified):
                eye = shift * torch.eye(len(c.unified), dtype=torch.float64, device=start.device)
                solved = torch.cholesky_solve(across, factor) if len(c.free) else across
                reduced = xx[c.unified][:, c.unified] + eye - across.mT @ solved
                signs = self._sign[c.rows][:, c.unified]
                right = b[:, c.unified] - b[:, c.free] @ solved
                A.index_put_(
                    (c.blocks[:, None], c.blocks[None]), reduced * (signs.mT @ signs), accumulate=True
                )
                r.index_add_(0, c.blocks, (signs * right).sum(0))
        v = _nonnegative(A, r)
        for c, factor, across, b in systems:
            if len(c.unified):
                unified = self._sign[c.rows][:, c.unified] * v[c.blocks]
                result[c.rows[:, None], c.unified] = unified
                b = b.clone()
                b[:, c.free] -= unified @ across.mT
            if len(c.free):
                result[c.rows[:, None], c.free] = torch.cholesky_solve(b[:, c.free].mT, factor).mT
        return result


def _widened(values: Tensor, more: int, fill: float) -> Tensor:
    return torch.cat([values, values.new_full((*values.shape[:2], more), fill)], 2) if more else values


def _parts(pattern: BlockPattern, g: int, m: int) -> list[Tensor]:
    """Return the rows that have to be solved together: those of the blocks of one row, or, without, of as many.

    Where taps stand beside outputs a block may hold parts of several outputs.
    """
    partition = pattern.partition
    together = partition.block.rows
    if partition.block.reshape is Reshape.OUTPUTS:
        taps = partition.sizes[1] // (m * (g if partition.merged else 1))
        together = math.lcm(together, taps) // taps
    rows = torch.arange(g * m)
    groups = [rows] if partition.merged else list(rows.split(m))
    return [part for group in groups for part in group.split(together)]


def _settled(moments: Moments, start: Tensor, fixed: Tensor | None) -> Moments:
    """Return moments under which fixed rows are right as they start."""
    if fixed is None or not bool(fixed.any()):
        return moments
    yx = torch.where(fixed[..., None], start @ moments.xx, moments.yx)
    yy = torch.where(fixed, (start * yx).sum(-1), moments.yy)
    return Moments(moments.xx, yx, yy, moments.count)


def _error(moments: Moments, weight: Tensor, rows: Tensor, group: Tensor) -> float:
    """Return the mean squared error of some rows, each as a share of its target's power, summed."""
    w, yx, yy = weight[rows], moments.yx.flatten(0, 1)[rows], moments.yy.flatten()[rows]
    same = bool((group[rows] == group[rows[0]]).all())
    read = w @ moments.xx[group[rows[0]]] if same else torch.einsum("rd,rde->re", w, moments.xx[group[rows]])
    error = (read * w - 2 * w * yx).sum(1) + yy
    return float((error / yy.clamp_min(torch.finfo(torch.float64).tiny)).sum())


def _factor(matrix: Tensor, shift: float) -> Tensor | None:
    """Return the Cholesky factor, with a larger shift where rounding made the matrix indefinite, or None."""
    eye = torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)
    for _attempt in range(12):
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(matrix + shift * eye)
        if not int(failed):
            return factor
        shift *= 10
    return None


def _nonnegative(A: Tensor, r: Tensor) -> Tensor:
    """Solve ``A v = r`` with ``v >= 0``: unknowns that come out negative are zero, the others are solved again."""
    v = torch.zeros_like(r)
    free = torch.arange(len(r), device=r.device)
    while len(free):
        part = A[free][:, free]
        factor = _factor(part, 1e-12 * float(part.diagonal().mean().clamp_min(0)))
        if factor is None:
            return v
        found = torch.cholesky_solve(r[free, None], factor)[:, 0]
        if not bool((found < 0).any()):
            v[free] = found
            return v
        free = free[found >= 0]
    return v
