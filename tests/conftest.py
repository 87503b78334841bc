"""One thread and fixed examples: results are the same everywhere, and no test depends on the speed of a machine."""

from __future__ import annotations

import sys
from functools import partial

import pytest
import torch
from hypothesis import settings

import secateur as sc
from secateur import measure

settings.register_profile("secateur", deadline=None, derandomize=True, database=None)
settings.load_profile("secateur")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every run time two calls of each network instead of two seconds of them."""
    assert sc.prune  # its module is there now
    quick = partial(measure.compare_latency, rounds=2, seconds=0, warmup=0)
    monkeypatch.setattr(sys.modules["secateur.prune"], "compare_latency", quick)
