"""Images that come with the package: Fashion-MNIST's test set and a calibration draw (MIT licence: NOTICE)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from .images import DATASETS, normalise

__all__ = ["DemoData", "demo_data"]


@dataclass(frozen=True)
class DemoData:
    """All 10,000 test images with labels, and 1,000 training images without: uint8 (N, 1, 28, 28), int64 (N,)."""

    test_x: Tensor
    test_y: Tensor
    calibration_x: Tensor

    def normalise(self, x: Tensor) -> Tensor:
        """Map uint8 images to float32 with the training set's mean and deviation."""
        source = DATASETS["fashion-mnist"]
        return normalise(x, source.mean, source.std)


def demo_data() -> DemoData:
    """Load the bundled images; the calibration images are the draw of seed 0 (`secateur.data.calibration`)."""
    with (
        (files("secateur.data") / "demo" / "fashion.npz").open("rb") as f,
        np.load(f, allow_pickle=False) as arrays,
    ):
        return DemoData(
            test_x=torch.from_numpy(arrays["test_x"]).unsqueeze(1),
            test_y=torch.from_numpy(arrays["test_y"].astype(np.int64)),
            calibration_x=torch.from_numpy(arrays["calibration_x"]).unsqueeze(1),
        )
