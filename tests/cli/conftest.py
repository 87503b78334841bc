"""A folder of a user, in which the command line is run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import MODULE


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module and labelled data in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine_for_cli", raising=False)
    (tmp_path / "mine_for_cli.py").write_text(MODULE)
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 6)).astype(np.float32), rng.integers(0, 3, 40)
    np.savez(tmp_path / "samples.npz", calibration=rng.random((200, 6)).astype(np.float32), x=x, y=y)
    return tmp_path
