"""A small pruned network, and the artefact of it."""

from pathlib import Path

import pytest
import torch
from artefacts import RECIPE, REPORT, Net, plan
from torch import nn

from secateur.artefact import save
from secateur.surgery.apply import apply
from secateur.surgery.plan import Plan


@pytest.fixture
def small() -> tuple[nn.Module, Plan]:
    torch.manual_seed(0)
    model = Net().eval()
    made = plan(model)
    return apply(model, made), made


@pytest.fixture
def saved(tmp_path: Path, small: tuple[nn.Module, Plan]) -> Path:
    return save(tmp_path / "artefact", *small, RECIPE, REPORT)
