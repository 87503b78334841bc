"""Quantisation after training: which levels, which scales, and weights rounded so that outputs change least."""

from .feedback import inverse_factor, rounded
from .fits import Quantisable, quantisable
from .front_to_back import Options, Quantised, QuantisedLayer, quantised, reading
from .ranges import Range, chosen_levels, error_of
from .scales import chosen_scales

__all__ = [
    "Options",
    "Quantisable",
    "Quantised",
    "QuantisedLayer",
    "Range",
    "chosen_levels",
    "chosen_scales",
    "error_of",
    "inverse_factor",
    "quantisable",
    "quantised",
    "reading",
    "rounded",
]
