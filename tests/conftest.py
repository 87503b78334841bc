"""One thread for all tests: sums come out the same everywhere, and small machines stay usable."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
