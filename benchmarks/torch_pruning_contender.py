"""Torch-Pruning (github.com/VainF/Torch-Pruning) as a contender: its own criteria and surgery at our MACs budgets.

Its pruners are asked for a share of channels, not for a cost, so the share is bisected until the model just meets the
budget as `secateur.measure` counts it. It repairs nothing. Needs ``pip install 'secateur[bench]'``.
"""

from __future__ import annotations

import copy

import torch
import torch_pruning as tp
from torch import Tensor, nn

from secateur.measure import macs

CRITERIA = (
    "group-magnitude",
    "group-magnitude, global",
    "group-taylor, labels",
    "group-taylor, labels, global",
)
STEPS = 12  # of the bisection: the share is known to 1 in 4096


def torch_pruned(
    criterion: str, model: nn.Module, example: Tensor, images: Tensor, labels: Tensor, budget: float
) -> nn.Module:
    """Return the largest pruned copy found whose MACs are at most `budget` of the model's.

    Taylor sees the gradient of the cross-entropy over all calibration images, which are labelled for it. "global" is
    Torch-Pruning's one ranking over all layers; else every layer loses the same share. The classifier stays.
    """
    source = copy.deepcopy(model).eval().requires_grad_()
    if criterion.startswith("group-taylor"):
        for x, y in zip(images.split(100), labels.split(100), strict=True):
            (nn.functional.cross_entropy(source(x), y, reduction="sum") / len(images)).backward()
    limit = budget * macs(source, (example,))
    low, high, best = 0.0, 1.0, None
    for _ in range(STEPS):
        share = (low + high) / 2
        smaller = _pruned(criterion, source, example, share)
        if macs(smaller, (example,)) <= limit:
            high, best = share, smaller
        else:
            low = share
    if best is None:
        raise RuntimeError(f"torch-pruning ({criterion}) cannot reach {budget} of the MACs")
    return best.requires_grad_(False).eval()


def _pruned(criterion: str, source: nn.Module, example: Tensor, share: float) -> nn.Module:
    model = copy.deepcopy(source)
    for old, new in zip(source.parameters(), model.parameters(), strict=True):
        new.grad = None if old.grad is None else old.grad.clone()
    importance = tp.importance.GroupTaylorImportance if "taylor" in criterion else _magnitude
    classifier = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    pruner = tp.pruner.BasePruner(
        model,
        example[:1],
        importance=importance(),
        global_pruning=criterion.endswith("global"),
        pruning_ratio=share,
        ignored_layers=[classifier],
    )
    with torch.enable_grad():
        pruner.step()
    model.zero_grad()
    return model


def _magnitude() -> object:
    return tp.importance.GroupMagnitudeImportance(p=2)
