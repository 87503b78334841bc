"""What flows through a network: streamed second moments, never stored activations."""

from .batches import Calibration
from .collect import SiteStatistics, Statistics, collect
from .forward import Forward, state_tensors

__all__ = ["Calibration", "Forward", "SiteStatistics", "Statistics", "collect", "state_tensors"]
