"""Reference data sets."""

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
    "ImageData",
    "cache_folder",
    "calibration",
    "calibration_index",
    "held_out",
    "load_images",
    "normalise",
]
