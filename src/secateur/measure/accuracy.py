"""How often a classifier is right, or says what another one says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from secateur.ground.errors import DataError

from .mode import evaluating

__all__ = ["agreement", "batches", "top1"]


def batches(x: Tensor, y: Tensor, size: int = 100) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut inputs and labels into batches of at most `size`.

    >>> [len(a) for a, _ in batches(torch.zeros(5, 2), torch.zeros(5), size=2)]
    [2, 2, 1]
    """
    for start in range(0, len(x), size):
        yield x[start : start + size], y[start : start + size]


@torch.inference_mode()
def top1(model: nn.Module, data: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the share of inputs whose largest logit is their label.

    Args:
        model: maps a batch of inputs to logits (N, classes).
        data: batches of inputs and int64 labels (N,).

    Raises:
        DataError: there are no data, or the model does not return one logit per class.
    """
    hits = total = 0
    with evaluating(model):
        for x, y in data:
            hits += int((_classes(model, x) == y).sum())
            total += len(y)
    return _share(hits, total)


@torch.inference_mode()
def agreement(model: nn.Module, reference: nn.Module, data: Iterable[Tensor]) -> float:
    """Return the share of unlabelled inputs for which two classifiers choose the same class.

    Raises:
        DataError: there are no data, or a model does not return one logit per class.
    """
    hits = total = 0
    with evaluating(model, reference):
        for x in data:
            hits += int((_classes(model, x) == _classes(reference, x)).sum())
            total += len(x)
    return _share(hits, total)


def _classes(model: nn.Module, x: Tensor) -> Tensor:
    logits = model(x)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise DataError(f"Accuracy needs logits of shape (N, classes), but the model returned {found}.")
    return logits.argmax(1)


def _share(hits: int, total: int) -> float:
    if not total:
        raise DataError("Accuracy needs at least one input, but the data are empty.")
    return hits / total
