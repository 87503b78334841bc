"""Time one call where it runs: by a clock of the processor, or by events on a device that works on its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["milliseconds"]


def milliseconds(
    call: Callable[[], Any],
    device: torch.device | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return how long a call takes.

    On a GPU, whose calls return before they are done, events before and behind the call say it: nothing that was
    started earlier counts. Any other `clock` than the processor's is asked as it is.

    >>> milliseconds(lambda: None, clock=iter([1.0, 1.25]).__next__)
    250.0
    """
    if device is None or device.type == "cpu" or clock is not time.perf_counter:
        start = clock()
        call()
        return 1000 * (clock() - start)
    begin, end = (torch.Event(device, enable_timing=True) for _ in range(2))
    torch.accelerator.synchronize(device)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))
