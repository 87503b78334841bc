"""Documents do what they say: Python blocks run, recipes parse, commands and files are there."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer

import secateur
from secateur.cli import app
from secateur.recipes import parse_recipe
from secateur.recipes.recipe import write_recipe
from secateur.recipes.text import parse

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# A block is fenced, or stands in a comment that readers do not see: <!-- python ... -->, to set the scene of a page.
BLOCK = re.compile(r"^(?:```|<!-- )(\w+)\n(.*?)^(?:```|-->)$", re.M | re.S)
FILE = re.compile(
    r"# (\w+)\.py\n"
)  # begins a block that is a file of the reader's, and is imported by others
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str


def blocks(page: Path, *languages: str) -> Iterator[Block]:
    text = page.read_text()
    for match in BLOCK.finditer(text):
        if match[1] in languages:
            yield Block(page, text.count("\n", 0, match.start()) + 2, match[1], match[2])


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def pages(*languages: str) -> list[Any]:
    return [pytest.param(page, id=name(page)) for page in PAGES if any(blocks(page, *languages))]


def write_files(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the files that a page shows to a folder, in which modules are found."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    # A project of the reader's, with whatever a recipe names.
    files = {"my_project": "def __getattr__(name):\n    return lambda *args: None\n"}
    files |= {named[1]: block.text for block in blocks(page, "python") if (named := FILE.match(block.text))}
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()


@pytest.mark.parametrize("page", pages("python"))
def test_python_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(page, tmp_path, monkeypatch)
    torch.manual_seed(0)
    space: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page, "python"):
        if FILE.match(block.text):
            continue
        # Lines count as in the page, so that a traceback leads to them.
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        exec(code, space)
    assert len(space) > 2, "no block of the page made anything: are they fenced as python?"


@pytest.mark.parametrize("page", pages("bash"))
def test_commands_are_known(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for block in blocks(page, "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["secateur"]:
                _parse(words[1:])
            elif words[:1] == ["make"]:
                assert set(words[1:]) <= targets, line
            elif words[:1] == ["python"]:
                assert (ROOT / words[1]).is_file(), line
            else:
                assert not words or words[0] in {"pip", "torchrun", "accelerate", "pre-commit"}, line


def _parse(words: list[str]) -> None:
    """Let the command line read the words of a command without running it."""
    group: Any = typer.main.get_command(app)
    # --help is done when it is read; wrong usage is another exception.
    with suppress(typer.Exit), group.make_context("secateur", list(words)) as context:
        name, command, rest = group.resolve_command(context, words)
        command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", pages("yaml"))
def test_recipes_parse(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(page, tmp_path, monkeypatch)
    for block in blocks(page, "yaml"):
        given = parse(block.text, name(page))
        assert set(given) <= set(write_recipe(parse_recipe(given)))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_a_page_leads_to_exist(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_page_and_decision_is_in_the_contents() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    found = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert listed == found


def test_the_reference_has_every_public_name() -> None:
    table = (ROOT / "docs" / "reference" / "index.md").read_text()
    assert set(re.findall(r"\[`(\w+)`\]", table)) == {
        n for n in secateur.__all__ if not isinstance(getattr(secateur, n), ModuleType)
    }
