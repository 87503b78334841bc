"""The scripts that damage artefacts and kill what saves them, with few rounds."""

import importlib
import random
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_no_damaged_folder_or_checkpoint_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    fuzz = importlib.import_module("fuzz_artefacts")
    rng = random.Random(3)
    (tmp_path / "checkpoints").mkdir()
    found = fuzz.folders(20, rng, tmp_path) + fuzz.checkpoints(20, rng, tmp_path / "checkpoints")
    assert found.total() == 40
    assert not [name for name in found if name.startswith("!")]
    assert found["error"] > 20


@pytest.mark.parametrize("kind", ["save", "pack", "checkpoint"])
def test_a_killed_save_leaves_an_older_or_the_newer_one(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    kill = importlib.import_module("kill_saves")
    assert kind in kill.KINDS
    wrong, _ = kill.one_round(kind, tmp_path, delay=0.05)
    assert not wrong
