import subprocess
from pathlib import Path

import torch

from secateur.measure import environment
from secateur.measure.environment import commit


def test_it_describes_this_process() -> None:
    found = environment()
    assert found.torch == torch.__version__
    assert found.threads == torch.get_num_threads()
    assert found.cpu
    assert found.secateur


def git(folder: Path, *command: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(("git", "-C", str(folder), *who, *command), check=True, capture_output=True)


def test_commit_marks_changed_files(tmp_path: Path) -> None:
    assert commit(tmp_path) == ""
    git(tmp_path, "init", "-q")
    assert commit(tmp_path) == ""  # nothing committed yet
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "a")
    clean = commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "b").write_text("untracked files do not count")
    assert commit(tmp_path) == clean
    (tmp_path / "a").write_text("2")
    assert commit(tmp_path) == clean + "+"
