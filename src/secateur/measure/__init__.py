"""What a network costs and how good it is: counts, time, accuracy, and where that was measured."""

from .accuracy import agreement, batches, top1
from .count import Size, macs, parameters, size, stored_bytes
from .environment import Environment, environment
from .latency import Comparison, Latency, Timing, compare_latency, time_model
from .mode import evaluating, using_threads

__all__ = [
    "Comparison",
    "Environment",
    "Latency",
    "Size",
    "Timing",
    "agreement",
    "batches",
    "compare_latency",
    "environment",
    "evaluating",
    "macs",
    "parameters",
    "size",
    "stored_bytes",
    "time_model",
    "top1",
    "using_threads",
]
