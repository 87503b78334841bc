"""What refitting will cost: said before it begins, where it is long."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from secateur.graph import Graph
from secateur.ground.progress import said

from .jobs import Job
from .regressions import Sampling

__all__ = ["Forecast", "announce", "forecast"]

LONG = 20.0  # seconds
_SIDE = 512  # of the product whose time says how fast the device is


@dataclass(frozen=True)
class Forecast:
    """Multiplications (float32; one in float64 counts for two) and the bytes of the largest layer's moments."""

    macs: float
    memory: int

    def seconds(self, device: torch.device) -> float:
        """Return how long they take, by the speed of one product on the device (an optimistic estimate)."""
        x = torch.ones(_SIDE, _SIDE, device=device)
        float((x @ x)[0, 0])  # the first one also starts libraries
        start = time.perf_counter()
        float((x @ x)[0, 0])
        return self.macs / _SIDE**3 * (time.perf_counter() - start)


def forecast(graph: Graph, jobs: Sequence[Job], sampling: Sampling, ridges: int) -> Forecast:
    """Return what solving each layer once costs, with both networks run to the last one.

    Of d inputs and m outputs, n rows need ``n d (d / 2 + m)``, each ridge ``d^3 / 6 + 2 d^2 m``; fit, held-out and
    whole moments are in memory beside their sums and a factor.
    """
    macs, memory = 0.0, 0
    if jobs:
        macs += 2 * sampling.samples * sum(graph.macs({}).values())
    for job in jobs:
        d, m = job.width, job.outputs.shape[1]
        rows = sampling.samples * min(math.prod(job.layer.positions), sampling.wanted(d))
        macs += len(job.groups) * (rows * d * (d / 2 + m) + 2 * ridges * (d**3 / 6 + 2 * d * d * m))
        memory = max(memory, 8 * len(job.groups) * (7 * d * d + 5 * d * m))
    return Forecast(macs, memory)


def announce(expected: Forecast, layers: int, device: torch.device) -> None:
    """Say how long refitting takes and what memory its moments need, if it is long."""
    seconds = expected.seconds(device)
    if seconds > LONG:
        how_long = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
        said(
            f"refitting {layers} layers: about {how_long} or more, {expected.memory / 1e9:.1f} GB for moments"
        )
