"""Hold a part of the training set out, the same in every run and every process."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, cast

import torch
from torch.utils.data import Dataset, Subset

from secateur.ground.errors import DataError

__all__ = ["hold_out"]


def hold_out(dataset: Dataset[Any], number: float, seed: int = 0) -> tuple[Subset[Any], Subset[Any]]:
    """Return a data set without some of its samples, and those samples, to validate on.

    `number` is a share (below 1) or a number of samples; `seed` draws them, whatever torch's generators are at. Give
    the validation part the transforms of testing: a data set that augments does so in both.

    Raises:
        DataError: nothing would be left in one of the parts, or the data set has no length.

    >>> train, validation = hold_out(torch.utils.data.TensorDataset(torch.arange(10)), 0.2)
    >>> len(train), [int(x) for x, in validation]
    (8, [4, 1])
    """
    if not isinstance(dataset, Sized):
        raise DataError(f"A {type(dataset).__name__} has no length: hold out by hand what validates.")
    total = len(dataset)
    held = round(number * total) if number < 1 else int(number)
    if not 0 < held < total:
        raise DataError(f"{number} of {total} samples cannot be held out: both parts need some.")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tolist()
    whole = cast(Any, dataset)
    return Subset(whole, sorted(order[held:])), Subset(whole, order[:held])
