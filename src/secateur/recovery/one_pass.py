"""One-pass recovery: each consumer takes over what its lost inputs did, from the statistics of the dense network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from secateur.graph import Graph, Kept
from secateur.ground.devices import onto
from secateur.statistics.collect import Statistics

from .jobs import Job, jobs, masked
from .least_squares import Moments, check_ridges, identity, solve

__all__ = ["OnePass"]


@dataclass(frozen=True)
class OnePass:
    """``W_new = W C[:, K] C[K, K]^-1`` on the input channels of every consumer, the same at each tap (SNP).

    Exact with respect to zero padding, and without a further pass. With `ridges` of one value that ridge is used;
    with several, the one with the least error on held-out moments. `centred` solves on moments about the mean and
    moves the difference into the bias (or the mean of the BatchNorm behind).
    """

    ridges: tuple[float, ...] = (1e-6,)
    centred: bool = False

    def __post_init__(self) -> None:
        check_ridges(self.ridges)

    def __call__(
        self, graph: Graph, kept: Kept, statistics: Statistics, calibration: Iterable[Any], seed: int = 0
    ) -> dict[str, Tensor]:
        """Return all tensors of the pruned network in the full shapes, consumers repaired."""
        current = masked(graph, statistics.tensors, kept)
        for job in jobs(graph, kept, producers=False, residual=False):
            if job.layer.node in statistics.sites and job.inputs.shape[1]:
                current |= self._repair(job, statistics, current)
        return current

    def _repair(self, job: Job, statistics: Statistics, current: Mapping[str, Tensor]) -> dict[str, Tensor]:
        site = statistics.sites[job.layer.node]
        job = replace(job, fold=job.layer.in_channels // len(site.fit))  # as the moments were pooled, or not
        # What a transposed convolution makes of a constant differs from position to position: no bias holds it.
        centred = self.centred and not job.layer.transposed
        mean = site.mean if centred else torch.zeros_like(site.mean)
        lost = _lost(job).to(mean.device)
        mixing = identity(job.layer.width // job.fold, _channels(job).to(mean.device))
        if lost.shape[1]:  # inputs that are left stand for themselves, which no ridge could better
            fit, held, whole = (
                _moments(job, lost, m - torch.outer(mean, mean)) for m in (site.fit, site.held, site.gram)
            )
            norms = job.column_norms(statistics.tensors[job.layer.weight]).gather(1, lost)
            rows = torch.arange(len(lost), device=lost.device)[:, None]
            mixing[rows, lost] = solve(fit, held, whole, mixing[rows, lost], self.ridges, importance=norms)
        return _recombine(job, mixing, statistics.tensors, current, mean if centred else None)


def _channels(job: Job) -> Tensor:
    """Return the kept inputs of each group, in units of `job.fold` neighbouring columns."""
    return job.inputs[:, :: job.fold] // job.fold


def _lost(job: Job) -> Tensor:
    """Return the inputs that each group has lost, in the units of `_channels`."""
    whole = torch.ones(len(job.groups), job.layer.width // job.fold, dtype=torch.bool)
    whole.scatter_(1, _channels(job), False)
    return whole.nonzero()[:, 1].view(len(job.groups), -1)


def _moments(job: Job, lost: Tensor, gram: Tensor) -> Moments:
    """Return the regression of the inputs that each group has lost on those that are left."""
    width = job.layer.width // job.fold
    grams, crosses, squares = [], [], []
    for g, left, gone in zip(job.groups.tolist(), _channels(job), lost, strict=True):
        own = gram[g * width : (g + 1) * width, g * width : (g + 1) * width]
        grams.append(own[left[:, None], left])
        crosses.append(own[gone[:, None], left])
        squares.append(own.diagonal()[gone])
    return Moments(torch.stack(grams), torch.stack(crosses), torch.stack(squares), 1)


def _recombine(
    job: Job,
    mixing: Tensor,
    dense: Mapping[str, Tensor],
    current: Mapping[str, Tensor],
    mean: Tensor | None,
) -> dict[str, Tensor]:
    layer, weight = job.layer, dense[job.layer.weight]
    repaired = {layer.weight: job.merge(current[layer.weight], job.recombined(weight, mixing))}
    if mean is not None and job.intercept is not None:
        own = mean.view(layer.groups, -1)[job.groups]
        lost = own - torch.einsum("gck,gk->gc", mixing, own.gather(1, _channels(job).to(own.device)))
        change = job.recombined(weight, lost[..., None]).sum(2).reshape(-1)
        value = current[job.intercept].clone()
        sign = -1 if job.outlet.batch_norm is not None else 1
        value[job.channels()] += onto(sign * change, value)
        repaired[job.intercept] = value
    return repaired
