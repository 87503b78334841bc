"""The command line in this process, and a small model, data and recipe of a user."""

from __future__ import annotations

import json
from typing import Any

import pytest

from secateur.cli import main

MODULE = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
"""
RECIPE = """
model: mine_for_cli:build
data: samples.npz
budget: {macs: 0.5}
output: half
threads: 1
"""


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    code = caught.value.code
    assert code is None or isinstance(code, int)
    return code or 0


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)
