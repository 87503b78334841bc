"""One thread and fixed examples: results are the same everywhere, and no test depends on the speed of a machine."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

settings.register_profile("secateur", deadline=None, derandomize=True, database=None)
settings.load_profile("secateur")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
