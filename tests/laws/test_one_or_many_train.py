"""Law 8 in training: two processes, each on its share of every batch, end with the masks and weights of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_runs
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    here = Path(training_runs.__file__)
    paths = os.pathsep.join([str(here.parent), *sys.path])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": paths}
    subprocess.run([*launcher, str(here), str(folder)], check=True, env=environment, timeout=200)
    return folder


@pytest.mark.parametrize("listed", [False, True], ids=["loader", "list"])
def test_two_processes_train_as_one(listed: bool, together: Path) -> None:
    training_runs.write(training_runs.shared(listed), together / "alone")
    alone = load_file(together / "alone")
    both = [load_file(together / f"{listed}.{rank}") for rank in range(2)]
    assert alone["rows"][-1, 3] == pytest.approx(0.2, abs=0.01)
    for key, tensor in alone.items():
        assert torch.equal(both[0][key], both[1][key]), key
        if key.startswith("masks."):
            assert torch.equal(both[0][key], tensor), key
        else:
            torch.testing.assert_close(both[0][key], tensor, rtol=1e-9, atol=1e-9)
