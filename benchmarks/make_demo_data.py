"""Write the images that `secateur demo` uses: python benchmarks/make_demo_data.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from secateur.data import calibration_index, load_images

TARGET = Path(__file__).parents[1] / "src" / "secateur" / "data" / "demo" / "fashion.npz"


def main() -> None:
    data = load_images("fashion-mnist")
    index = calibration_index(len(data.train_x), 1000, seed=0)
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        TARGET,
        allow_pickle=False,
        test_x=data.test_x[:, 0].numpy(),
        test_y=data.test_y.numpy().astype(np.uint8),
        calibration_x=data.train_x[index, 0].numpy(),
    )
    print(f"{TARGET.name}: {TARGET.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
