"""What a network costs and how good it is: counts, time, accuracy, and where that was measured."""

from .accuracy import agreement, batches, top1
from .count import Size, macs, parameters, size, stored_bytes
from .environment import Environment, environment
from .latency import Comparison, Latency, compare_latency

__all__ = [
    "Comparison",
    "Environment",
    "Latency",
    "Size",
    "agreement",
    "batches",
    "compare_latency",
    "environment",
    "macs",
    "parameters",
    "size",
    "stored_bytes",
    "top1",
]
