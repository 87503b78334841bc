"""Law 7: a run that was killed at any moment and resumed ends bit by bit as one that was not."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_runs import RUNS, interrupted, write

# Each process is a new one that shares nothing; what takes long to import is there already.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["accelerate", "secateur.sparse", "torch.utils.tensorboard"])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", RUNS)
def test_killed_and_resumed_ends_as_unbroken(name: str, seed: int, tmp_path: Path) -> None:
    moments, kills = random.Random(seed), 0
    folder, result = tmp_path / "run", tmp_path / "resumed.safetensors"
    while not result.exists():
        started = PROCESSES.Event()
        process = PROCESSES.Process(target=interrupted, args=(name, folder, result, started))
        process.start()
        assert started.wait(60)
        process.join(moments.uniform(0.1, 0.7) if kills < 5 else None)
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
            process.join()
        else:
            assert process.exitcode == 0
    assert kills >= 2, "nothing was interrupted"
    write(RUNS[name](None), tmp_path / "unbroken.safetensors")
    resumed, unbroken = load_file(result), load_file(tmp_path / "unbroken.safetensors")
    assert resumed.keys() == unbroken.keys()
    for key, tensor in unbroken.items():
        assert torch.equal(resumed[key], tensor), key
    # Nothing is logged twice, nothing is lost.
    lines = (folder / "log.csv").read_text().splitlines()
    assert [int(line.partition(",")[0]) for line in lines[1:]] == unbroken["rows"][:, 0].tolist()
