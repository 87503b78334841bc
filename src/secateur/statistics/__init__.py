"""What flows through a network: streamed second moments, never stored activations."""

from .activity import Contributor, Norm
from .batches import Calibration
from .collect import Statistics, collect
from .forward import Forward, state_tensors
from .gradients import Loss, random_projection
from .sums import SiteStatistics

__all__ = [
    "Calibration",
    "Contributor",
    "Forward",
    "Loss",
    "Norm",
    "SiteStatistics",
    "Statistics",
    "collect",
    "random_projection",
    "state_tensors",
]
