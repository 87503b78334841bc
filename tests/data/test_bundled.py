import hashlib

import torch

from secateur.data import DATASETS, demo_data


def test_the_bundled_images_are_fashion_mnists_test_set() -> None:
    data = demo_data()
    source = DATASETS["fashion-mnist"].sha256
    assert source is not None
    assert hashlib.sha256(data.test_x.numpy().tobytes()).hexdigest() == source[2]
    assert hashlib.sha256(data.test_y.to(torch.uint8).numpy().tobytes()).hexdigest() == source[3]


def test_the_calibration_images_are_a_thousand_others() -> None:
    data = demo_data()
    assert data.calibration_x.shape == (1000, 1, 28, 28)
    test = {x.tobytes() for x in data.test_x.numpy()}
    shared = sum(x.tobytes() in test for x in data.calibration_x.numpy())
    assert shared < 10  # a few of Fashion-MNIST's images are in both its splits
    x = data.normalise(data.calibration_x)
    assert abs(x.mean().item()) < 0.1
    assert abs(x.std().item() - 1) < 0.1
