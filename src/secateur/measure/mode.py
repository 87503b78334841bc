"""Run models in evaluation mode or with other threads, and leave all as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from secateur.ground.errors import UsageError
from secateur.ground.modes import evaluating

__all__ = ["evaluating", "using_threads"]


@contextmanager
def using_threads(number: int | None) -> Iterator[int]:
    """Set torch's number of intra-op threads inside of the block (None: as it is), and give the number in use.

    Raises:
        UsageError: it is below 1, or more than four for each processor: a pool of any number ends the process.
    """
    most = 4 * (os.cpu_count() or 1)
    if number is not None and not 1 <= number <= most:
        raise UsageError(
            f"threads={number} is out of range: from 1 to {most}, four for each of the {most // 4} processors here."
        )
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
