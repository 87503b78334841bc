"""Least squares on second moments: the weights that best repair what pruning took away.

Everything here works on normal equations, never on activations. With inputs ``x`` (d,) and targets ``y`` (m,),
the moments are ``xx = E[x x^T]``, ``yx = E[y x^T]`` and ``yy = E[y y]`` (per row); the mean squared error of
weights ``W`` is then ``W xx W^T - 2 W yx^T + yy`` row by row, in closed form and without another pass.
A leading dimension holds the groups of a grouped convolution: least squares stays inside each group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "RIDGES",
    "Moments",
    "check_ridges",
    "choose_ridge",
    "identity",
    "mean_squared_error",
    "ridge",
    "solve",
    "solve_with",
]

RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridges that are tried, in units of the mean diagonal of ``xx``."""


def check_ridges(ridges: Sequence[float]) -> None:
    """Check that there are ridges to try, none below 0.

    Raises:
        ValueError: there are not.
    """
    if not ridges or not min(ridges) >= 0:
        raise ValueError(f"ridges={ridges!r} must be one or more numbers, none below 0.")


@dataclass(frozen=True)
class Moments:
    """Second moments of a regression, float64: ``xx`` (g, d, d), ``yx`` (g, m, d), ``yy`` (g, m), and their weight."""

    xx: Tensor
    yx: Tensor
    yy: Tensor
    count: float

    def joined(self, other: Moments) -> Moments:
        """Return the moments over both sets of samples."""
        n = max(self.count + other.count, 1)
        a, b = self.count / n, other.count / n
        return Moments(a * self.xx + b * other.xx, a * self.yx + b * other.yx, a * self.yy + b * other.yy, n)


def mean_squared_error(moments: Moments, weight: Tensor) -> Tensor:
    """Return the mean squared error of each output under `weight` (g, m, d), as (g, m).

    >>> m = Moments(torch.eye(2).double()[None], torch.tensor([[[1.0, 0.0]]]).double(), torch.ones(1, 1).double(), 1)
    >>> mean_squared_error(m, torch.tensor([[[1.0, 0.0]]]).double())
    tensor([[0.]], dtype=torch.float64)
    """
    return ((weight @ moments.xx) * weight - 2 * weight * moments.yx).sum(-1) + moments.yy


def ridge(moments: Moments, start: Tensor, strength: float) -> Tensor:
    """Solve ``min_W E|y - W x|^2 + e |W - start|^2`` with ``e = strength * mean(diag(xx))``.

    The ridge pulls towards the weights that were kept, never towards zero, so that the error on these moments
    cannot exceed that of `start` (law 4). Cholesky is retried with a tenfold ridge where rounding made
    ``xx`` indefinite; inputs that are all dead keep their weights.

    Shapes: `start` and the result are (g, m, d), float64.
    """
    return start + _change(moments.xx, moments.yx - start @ moments.xx, strength)


def _change(xx: Tensor, residual: Tensor, strength: float) -> Tensor:
    """Return how far a ridge moves the weights, where ``residual = yx - start xx`` is the same for all strengths."""
    unit = xx.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float64).tiny)
    for _attempt in range(12):
        shifted = xx.clone()
        shifted.diagonal(dim1=1, dim2=2).add_((strength * unit)[:, None])
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if not failed.any():
            return torch.cholesky_solve(residual.mT, factor).mT
        strength *= 10
    return torch.zeros_like(residual)


def choose_ridge(
    fit: Moments,
    held: Moments,
    start: Tensor,
    strengths: Sequence[float] = RIDGES,
    importance: Tensor | None = None,
) -> Tensor:
    """Return for each output, (g, m), the strength that, solved with on `fit`, has the least error on `held`.

    It is ``inf`` where `start` itself (an infinite ridge) has, hence what is chosen is never worse than no recovery
    on held-out data. With `importance` (g, m), all outputs of a group share the strength with the least weighted
    error: only then is the error of every linear function of the outputs, too, not raised on the data that are
    solved on.
    """
    wanted, rest = (m.yx - start @ m.xx for m in (fit, held))
    least = torch.zeros(start.shape[:2], dtype=torch.float64, device=start.device)
    chosen = torch.full_like(least, float("inf"))
    for strength, more in _above_start(fit.xx, held.xx, wanted, rest, strengths):
        if importance is not None:
            more = (more * importance).sum(1, keepdim=True).expand_as(more)
        better = more < least
        least = torch.where(better, more, least)
        chosen = torch.where(better, strength, chosen)
    return chosen


def _above_start(
    fit: Tensor, held: Tensor, wanted: Tensor, rest: Tensor, strengths: Sequence[float]
) -> Iterator[tuple[float, Tensor]]:
    """Yield each strength and the held-out errors of its weights, (g, m), above those of the weights to start from.

    With residuals ``r = yx - start xx`` of the fit (`wanted`) and the held-out moments (`rest`), weights that move by
    ``D`` have the error ``D xx D^T - 2 D r^T`` above the start's. Where there are more outputs than inputs, one
    eigendecomposition of ``xx`` of the fit serves all strengths: it turns ``D`` into ``r / (values + e)``. No
    direction is then large by cancelling others, so the product with the held-out moments can be in float32 (right to
    about 1e-6 of its own size); in the inputs' own directions it cannot.
    """
    if wanted.shape[1] < wanted.shape[2] or not wanted.shape[2]:
        for strength in strengths:
            change = _change(fit, wanted, strength)
            yield strength, ((change @ held - 2 * rest) * change).sum(-1)
        return
    values, vectors = torch.linalg.eigh(fit)
    wanted, rest = wanted @ vectors, rest @ vectors
    turned = vectors.mT @ held @ vectors
    # Each direction in units of its own spread: float32 has not the range of float64.
    spread = turned.diagonal(dim1=1, dim2=2).clamp_min(torch.finfo(torch.float64).tiny).sqrt()[:, None]
    correlation = (turned / spread / spread.mT).float()
    unit = fit.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float64).tiny)[:, None, None]
    for strength in strengths:
        change = wanted / (values.clamp_min(0)[:, None] + strength * unit)
        scaled = change * spread
        size = scaled.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        small = (scaled / size).float()
        squares = (small @ correlation * small).sum(-1, dtype=torch.float64) * size[..., 0] ** 2
        yield strength, squares - 2 * (change * rest).sum(-1)


def solve_with(moments: Moments, start: Tensor, chosen: Tensor) -> Tensor:
    """Solve every output with the strength that is chosen for it, (g, m); where it is infinite, `start` stays."""
    solved = start.clone()
    for strength in chosen[chosen.isfinite()].unique().tolist():
        here = chosen == strength
        rows = here.any(0).nonzero()[:, 0]  # of some group
        some = Moments(moments.xx, moments.yx[:, rows], moments.yy[:, rows], moments.count)
        found = ridge(some, start[:, rows], strength)
        solved[:, rows] = torch.where(here[:, rows, None], found, solved[:, rows])
    return solved


def solve(
    fit: Moments,
    held: Moments,
    whole: Moments,
    start: Tensor,
    strengths: Sequence[float] = RIDGES,
    fixed: Tensor | None = None,
    importance: Tensor | None = None,
) -> Tensor:
    """Choose each output's ridge on held-out moments, then solve on the whole with it.

    Of one strength there is nothing to choose: it is taken. Outputs that are `fixed` (g, m) keep `start`;
    `importance` is that of `choose_ridge`.
    """
    if len(strengths) == 1:
        chosen = start.new_full(start.shape[:2], strengths[0])
    else:
        chosen = choose_ridge(fit, held, start, strengths, importance)
    if fixed is not None:
        chosen = chosen.masked_fill(fixed, float("inf"))
    return solve_with(whole, start, chosen)


def identity(inputs: int, kept: Tensor) -> Tensor:
    """Return the mixing that lets each kept input stand for itself and nothing else, (g, inputs, kept).

    >>> identity(3, torch.tensor([[0, 2]]))
    tensor([[[1., 0.],
             [0., 0.],
             [0., 1.]]], dtype=torch.float64)
    """
    g, k = kept.shape
    mixing = torch.zeros(g, inputs, k, dtype=torch.float64, device=kept.device)
    mixing.scatter_(1, kept[:, None, :], 1)
    return mixing
