"""How commands run: what they import, where they print, and what never reaches a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import RECIPE, run

import secateur as sc
from secateur.cli.common import printable, say, show
from secateur.ground.errors import UnknownNameError
from secateur.ground.importing import import_callable, modules_of

LOUD = """
import os
import torch

print("on import")

def build():
    print("hello from Python")
    os.write(1, b"hello from C")
    os.system("echo hello from a program")
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
"""


def secateur(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as its console script does: with the script's folder in front, not the current one."""
    code = "import sys; sys.path[:] = [p for p in sys.path if p]; from secateur.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(sc.__file__).parents[1])} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def artefact(here: Path) -> Path:
    (here / "half.yaml").write_text(RECIPE)
    assert run("prune", "half.yaml", "--quiet") == 0
    return here / "half"


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("jinja2.py", ("report", ".", "--output", "page.html")),
        ("safetensors.py", ("unpack", "../half.sec")),
        ("rich/__init__.py", ("report", ".", "--output", "page.html")),
        ("tensorboard.py", ("measure", ".")),
        ("timm.py", ("recipes",)),
    ],
)
def test_nothing_in_the_current_folder_is_imported(
    artefact: Path, module: str, arguments: tuple[str, ...]
) -> None:
    """A person looks at somebody's artefact from inside of it."""
    assert run("pack", str(artefact), "-o", str(artefact.parent / "half.sec")) == 0
    (artefact / module).parent.mkdir(exist_ok=True)
    (artefact / module).write_text("print('EXECUTED')\nraise SystemExit(3)\n")
    done = secateur(*arguments, cwd=artefact)
    assert "EXECUTED" not in done.stdout + done.stderr
    assert done.returncode == (2 if arguments[0] == "measure" else 0), done.stderr


def test_python_m_secateur(artefact: Path) -> None:
    (artefact / "jinja2.py").write_text("print('EXECUTED')\nraise SystemExit(3)\n")
    environment = os.environ | {"PYTHONPATH": str(Path(sc.__file__).parents[1])}
    for arguments, word in ((["--version"], sc.__version__), (["report", "."], "SNP")):
        done = subprocess.run(
            [sys.executable, "-m", "secateur", *arguments],
            cwd=artefact,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert word in done.stdout
        assert "EXECUTED" not in done.stdout


def test_named_modules_are_found_behind_all_others(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (here / "json.py").write_text("raise SystemExit('the wrong one')")
    (here / "mine_in_app.py").write_text(
        "def build():\n    from mine_beside import value\n    return value\n"
    )
    (here / "mine_beside.py").write_text("value = 7\n")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(here))])
    with pytest.raises(UnknownNameError, match="Cannot import the module 'mine_in_app'"):
        import_callable("mine_in_app:build")
    with modules_of(here):
        assert import_callable("json:dumps") is json.dumps
        assert str(here) not in sys.path
        found = import_callable("mine_in_app:build")
        with pytest.raises(UnknownNameError, match=r"'json' has no 'build'\. It is the module .*json"):
            import_callable("json:build")
    assert sys.path[-1] == str(here)  # for its neighbours
    assert found() == 7
    for name in ("mine_in_app", "mine_beside"):
        del sys.modules[name]


def test_an_answer_in_json_stands_alone(here: Path) -> None:
    (here / "loud.py").write_text(LOUD)
    done = secateur("inspect", "loud:build", "--input", "1,6", "--json", cwd=here)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] == 6 * 16 + 16 + 16 * 3 + 3
    for words in ("on import", "hello from Python", "hello from C", "hello from a program"):
        assert words in done.stderr
    spoken = secateur("inspect", "loud:build", "--input", "1,6", cwd=here)
    assert "hello from Python" in spoken.stdout


def test_threads_are_bounded(here: Path) -> None:
    """Too many of them ended the process with a segmentation fault."""
    most = 4 * (os.cpu_count() or 1)
    arguments = ("measure", "mine_for_cli:build", "--input", "1,6", "--rounds", "2", "--seconds", "0")
    done = secateur(*arguments, "--threads", str(most + 1), cwd=here)
    assert done.returncode == 1
    assert f"threads={most + 1} is out of range: from 1 to {most}" in done.stderr
    assert secateur(*arguments, "--threads", "0", cwd=here).returncode == 2


def test_a_disk_that_cannot_be_written_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "half.yaml").write_text(RECIPE)
    assert run("prune", "half.yaml", "--quiet", "--output", "half.yaml/half") == 1
    error = capsys.readouterr().err
    assert error.startswith("secateur: ")
    assert error.count("\n") == 1


HOSTILE = "a\x1b]0;owned\x07\x1b[2J\x9bb\u202ec\r"


def test_control_characters_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    table = Table("name")
    table.add_row(HOSTILE)
    say(HOSTILE)
    show(HOSTILE)
    show(table)
    captured = capsys.readouterr()
    for text in (captured.err, *captured.out.split("\n", 1)):
        assert "\\x1b]0;owned" in text
        assert "\\x1b[2J\\x9bb\\u202ec" in text
        assert not {"\x1b", "\x07", "\x9b", "\u202e", "\r"} & set(text)
    assert printable("a\tb\nc é — ✓ 1\u202f000") == "a\tb\nc é — ✓ 1\u202f000"


def test_hostile_names_in_files_are_not_obeyed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({HOSTILE: torch.zeros(64, 64)}, here / "hostile.safetensors")
    (here / "hostile.yaml").write_text(json.dumps({HOSTILE: 1, "model": "x:y"}))
    arguments: Any
    for arguments, code in (
        (("pack", "hostile.safetensors"), 0),
        (("unpack", "hostile.sec"), 0),
        (("prune", "hostile.yaml"), 1),
        (("prune", "none\x1b[2J.yaml"), 1),
        (("inspect", "zoo:\x1b[2J"), 1),
    ):
        assert run(*arguments) == code
        captured = capsys.readouterr()
        assert "\\x1b" in captured.out + captured.err
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(captured.out + captured.err)


def test_the_version_is_there() -> None:
    from importlib.metadata import version

    assert sc.__version__ == version("secateur")
