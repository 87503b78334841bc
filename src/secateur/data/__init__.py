"""Reference data sets."""

from .batches import Shuffled, shift_and_mirror, shifted
from .bundled import DemoData, demo_data
from .images import (
    DATASETS,
    HELD_OUT,
    ImageData,
    cache_folder,
    calibration,
    calibration_index,
    held_out,
    load_images,
    normalise,
)

__all__ = [
    "DATASETS",
    "HELD_OUT",
    "DemoData",
    "ImageData",
    "Shuffled",
    "cache_folder",
    "calibration",
    "calibration_index",
    "demo_data",
    "held_out",
    "load_images",
    "normalise",
    "shift_and_mirror",
    "shifted",
]
