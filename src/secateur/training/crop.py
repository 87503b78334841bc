"""Crops: the smallest of what is left goes, over all parameters together or in each by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from secateur.ground.errors import TrainingError

from .masks import Masks
from .parameters import parameters

__all__ = ["Global", "LayerWise", "Scope", "crop_fraction", "magnitudes", "refuse_empty", "require"]


class Scope(Protocol):
    """Which weights compete with one another."""

    def __call__(self, masks: Masks, scores: Mapping[str, Tensor], share: float) -> Masks:
        """Return masks that keep `share` of their entries; of the parameters scored, the lowest go first."""
        ...


@dataclass(frozen=True)
class Global:
    """All weights compete: `share` counts over all entries of the masks, whether scored or not.

    >>> masks = Masks({"a": torch.ones(2, dtype=torch.bool), "b": torch.ones(2, dtype=torch.bool)})
    >>> scores = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0, 2.0])}
    >>> Global()(masks, scores, 0.5)["b"].tolist(), LayerWise()(masks, scores, 0.5)["b"].tolist()
    ([False, False], [False, True])
    """

    def __call__(self, masks: Masks, scores: Mapping[str, Tensor], share: float) -> Masks:
        """Return masks with exactly ``round(share * total)`` entries, or these if they have no more.

        Raises:
            TrainingError: `share` is not in (0, 1], or what is not scored alone is more.
        """
        require(0 < share <= 1, "share", share, "in (0, 1]")
        surplus = masks.kept - round(share * masks.total)
        scored = sum(int(masks[name].sum()) for name in scores)
        if surplus > scored:
            raise TrainingError(
                f"A share of {share:.4g} cannot be kept: the parameters that are not pruned are "
                f"{(masks.kept - scored) / masks.total:.4g} of all. Ask for more, or let more parameters be pruned."
            )
        return _without_lowest(masks, scores, surplus)


@dataclass(frozen=True)
class LayerWise:
    """Weights compete within their parameter: each that is scored keeps `share` of its entries, and at least one."""

    def __call__(self, masks: Masks, scores: Mapping[str, Tensor], share: float) -> Masks:
        """Return masks whose scored parameters have ``round(share * size)`` entries, or what they have if less."""
        require(0 < share <= 1, "share", share, "in (0, 1]")
        smaller = masks
        for name, score in scores.items():
            surplus = int(masks[name].sum()) - max(round(share * score.numel()), 1)
            smaller = _without_lowest(smaller, {name: score}, surplus)
        return smaller


def crop_fraction(masks: Masks, scores: Mapping[str, Tensor], fraction: float) -> Masks:
    """Take the lowest `fraction` of what is left of the scored parameters, all together.

    Repeated q times ``(1 - fraction)^q`` stays, as with torch.nn.utils.prune.global_unstructured.
    """
    left = sum(int(masks[name].sum()) for name in scores)
    return _without_lowest(masks, scores, round(fraction * left))


def magnitudes(model: nn.Module, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the absolute values of parameters by name."""
    known = parameters(model)
    return {name: known[name].detach().abs() for name in names}


def refuse_empty(before: Masks, after: Masks) -> None:
    """Refuse masks that take all of a weight: its layer would compute a constant.

    Raises:
        TrainingError: a parameter of two dimensions or more had entries before, and has none after.
    """
    for name, mask in after.items():
        if mask.dim() > 1 and not mask.any() and (name not in before or before[name].any()):
            raise TrainingError(
                f"Nothing would be left of {name!r}: keep a larger share, leave it out by `exclude`, or allow it with "
                "empty_layers=True."
            )


def require(holds: bool, option: str, value: object, where: str) -> None:
    """Refuse a number that is out of range.

    Raises:
        TrainingError: it is.
    """
    if not holds:
        raise TrainingError(f"{option}={value} is out of range: it has to be {where}.")


def _without_lowest(masks: Masks, scores: Mapping[str, Tensor], count: int) -> Masks:
    """Drop exactly `count` kept entries of the scored parameters; among equal scores the first go first."""
    if count <= 0 or not scores:
        return masks
    device = next(iter(scores.values())).device
    left = {name: masks[name].to(device) for name in scores}
    # At least float32, in which a selection exists on every device; float64 stays.
    values = torch.cat([torch.zeros(0, device=device), *(scores[n].to(device)[left[n]] for n in scores)])
    # A selection, not a sort: linear in the number of weights.
    threshold = values.kthvalue(count).values
    gone = values < threshold
    ties = (values == threshold).nonzero().flatten()
    gone[ties[: count - int(gone.sum())]] = True
    pieces = gone.split([int(m.sum()) for m in left.values()])
    smaller = dict(masks.tensors)
    for (name, mask), piece in zip(left.items(), pieces, strict=True):
        smaller[name] = mask.masked_scatter(mask, ~piece)
    return Masks(smaller)
