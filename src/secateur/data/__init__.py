"""Reference data sets."""

from .images import DATASETS, ImageData, cache_folder, load_images

__all__ = ["DATASETS", "ImageData", "cache_folder", "load_images"]
