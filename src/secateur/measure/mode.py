"""Run models in evaluation mode or with other threads, and leave all as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from secateur.ground.modes import evaluating

__all__ = ["evaluating", "using_threads"]


@contextmanager
def using_threads(number: int | None) -> Iterator[int]:
    """Set torch's number of intra-op threads inside of the block (None: as it is), and give the number in use."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
