"""One layer from its moments: scales, integers, and the constant that takes up the mean error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.ground.levels import Levels
from secateur.recovery.jobs import Job
from secateur.recovery.least_squares import Moments, mean_squared_error

from .feedback import inverse_factor, rounded
from .scales import chosen_scales

__all__ = ["QuantisedLayer", "solved"]


@dataclass(frozen=True)
class QuantisedLayer:
    """What became of a layer: the levels of its input, the scales of its weights, and what that costs.

    `scales` are float32 (outputs, input groups). `error` is the squared error of its output on samples held out, the
    dense network's being what is right, as a share of that output's power.
    """

    levels: Levels | None
    scales: Tensor
    error: float


def solved(
    one: Job,
    moments: tuple[Moments, Moments, Moments],
    tensors: Mapping[str, Tensor],
    levels: Levels | None,
    bits: int,
    group: int,
    feedback: bool,
) -> tuple[dict[str, Tensor], QuantisedLayer]:
    """Return the tensors of a layer that change, and what became of it.

    `moments` are those of the fit, of what is held out and of both, of the inputs with a constant behind them. The
    targets are what the dense layer makes without its bias.
    """
    layer, most = one.layer, 2 ** (bits - 1) - 1
    fit, held, whole = moments
    weight = one.split(tensors[layer.weight])
    xx, mean = fit.xx[:, :-1, :-1], fit.xx[:, :-1, -1]
    if one.intercept is not None:  # a constant takes up the mean
        xx = xx - mean[:, :, None] * mean[:, None, :]
    upper = inverse_factor(xx)
    owner = torch.arange(layer.width).repeat_interleave(one.taps) // (group or layer.width)
    scales = chosen_scales(weight, upper.diagonal(dim1=1, dim2=2) ** -2, most, owner)
    each = scales.gather(2, owner.expand_as(weight))
    tried = [(weight / each).round().clamp(-most, most)]
    if feedback:
        tried.insert(0, rounded(weight, upper, each, most))
    found = [_finished(one, tensors, whole, held, integers * each) for integers in tried]
    # Few samples may say more about columns than is so: then rounding to the nearest loses less on others.
    changed, error = min(found, key=lambda pair: pair[1])
    return changed, QuantisedLayer(levels, scales.flatten(0, 1).float(), error)


def _finished(
    one: Job, tensors: Mapping[str, Tensor], whole: Moments, held: Moments, weight: Tensor
) -> tuple[dict[str, Tensor], float]:
    """Return a layer's tensors with a constant that takes up the mean error, and the error on what is held out."""
    layer = one.layer
    kept = one.merge(tensors[layer.weight], weight + 0.0)  # -0.0 is no integer
    changed = {layer.weight: kept}
    found = one.split(kept)
    shift = torch.zeros(found.shape[:2], dtype=torch.float64)
    if one.intercept is not None:
        shift = whole.yx[..., -1] - (found @ whole.xx[:, :-1, -1:])[..., 0]
        sign = 1.0 if one.intercept == layer.bias else -1.0  # a running mean is subtracted
        changed[one.intercept] = tensors[one.intercept] + (sign * shift.flatten()).to(kept.dtype)
    lost = mean_squared_error(held, torch.cat([found, shift[..., None]], 2)).sum()
    return changed, float(lost.clamp_min(0) / held.yy.sum().clamp_min(torch.finfo(torch.float64).tiny))
