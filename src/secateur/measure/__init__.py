"""What a network costs and how good it is: counts, time, accuracy, and where that was measured."""

from .accuracy import agreement, batches, top1
from .allocator import keep_memory
from .count import Size, macs, parameters, size, stored_bytes
from .environment import Environment, environment
from .latency import Comparison, Latency, Timing, compare_latency, time_model
from .latency_model import LatencyModel, latency_model
from .metric import Metric, MetricFormat
from .mode import evaluating, using_threads
from .operation import Operation
from .timer import Stopwatch, Timer

__all__ = [
    "Comparison",
    "Environment",
    "Latency",
    "LatencyModel",
    "Metric",
    "MetricFormat",
    "Operation",
    "Size",
    "Stopwatch",
    "Timer",
    "Timing",
    "agreement",
    "batches",
    "compare_latency",
    "environment",
    "evaluating",
    "keep_memory",
    "latency_model",
    "macs",
    "parameters",
    "size",
    "stored_bytes",
    "time_model",
    "top1",
    "using_threads",
]
