"""Saving never does half: whatever fails or is killed, the old artefact is there or the new one."""

import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from artefacts import RECIPE, REPORT, Net, plan
from torch import nn

import secateur.ground.files as whole
from secateur.artefact import read, save
from secateur.artefact.files import check_output
from secateur.ground.errors import ArtefactError
from secateur.surgery.apply import apply
from secateur.surgery.plan import Plan

DEAD = f"{whole._machine()}-999999999-1-0123456789ab"  # what names the partial files of a process that is no more


@pytest.mark.parametrize("bad", [{"a": float("nan")}, {"a": object()}, {"a": {1, 2}}])
def test_what_is_not_plain_data_is_refused_before_anything_is_written(
    tmp_path: Path, small: tuple[nn.Module, Plan], bad: dict[str, Any]
) -> None:
    for recipe, report, name in ((bad, {}, "recipe.yaml"), ({}, bad, "report.json")):
        with pytest.raises(ArtefactError, match=f"{name} cannot be written"):
            save(tmp_path / "a", *small, recipe, report)
    assert list(tmp_path.iterdir()) == []


def test_an_older_artefact_is_replaced_as_a_whole(saved: Path, small: tuple[nn.Module, Plan]) -> None:
    save(saved, *small, {"second": True}, {})
    assert read(saved).recipe == {"second": True}
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("fail", ["write", "fsync", "rename"])
def test_a_save_that_fails_leaves_the_older_artefact(
    saved: Path, small: tuple[nn.Module, Plan], monkeypatch: pytest.MonkeyPatch, fail: str, exchange: bool
) -> None:
    def refuse(*args: object) -> bool:
        raise OSError(28, "disk full")

    rename = Path.rename

    def rename_or_fail(self: Path, target: Path) -> Path:
        return rename(self, target) if self == saved or self.name.endswith(".older") else refuse()  # type: ignore[return-value]

    if not exchange:
        monkeypatch.setattr(whole, "_exchange", lambda *_: False)
    if fail == "fsync":
        monkeypatch.setattr(os, "fsync", refuse)
    elif fail == "write":
        monkeypatch.setattr(sys.modules["secateur.artefact.save"], "write", refuse)
    elif exchange:
        monkeypatch.setattr(whole, "_exchange", refuse)
    else:
        monkeypatch.setattr(Path, "rename", rename_or_fail)
    with pytest.raises(ArtefactError, match="cannot be written: disk full"):
        save(saved, *small, {"second": True}, {})
    monkeypatch.undo()
    assert read(saved).recipe == RECIPE
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_kill_between_the_renames_loses_nothing(saved: Path, small: tuple[nn.Module, Plan]) -> None:
    aside = saved.with_name(f".{saved.name}.{DEAD}.older")
    saved.rename(aside)
    with pytest.raises(ArtefactError, match="no artefact"):  # as if it was deleted after a save that was done
        read(saved)
    aside.with_suffix(".partial").mkdir()
    assert read(saved).recipe == RECIPE
    save(saved, *small, {"second": True}, {})
    assert read(saved).recipe == {"second": True}
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_nothing_but_an_artefact_is_overwritten(tmp_path: Path, small: tuple[nn.Module, Plan]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtefactError, match="is not an artefact and is not overwritten"):
        save(tmp_path, *small, {}, {})
    with pytest.raises(ArtefactError, match="is a file"):
        save(tmp_path / "thesis.txt", *small, {}, {})
    saved = save(tmp_path / "a", *small, {}, {})
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(ArtefactError, match=r"holds 'notes\.txt'"):
        save(saved, *small, {}, {})
    assert (saved / "notes.txt").read_text() == "mine"


def test_a_place_is_checked_before_anything_is_done(tmp_path: Path, saved: Path) -> None:
    before = sorted(tmp_path.iterdir())
    check_output(saved)
    check_output(tmp_path / "deep" / "new")
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "new", tmp_path, tmp_path / ("o" * 300)):
        with pytest.raises(ArtefactError, match=r"is a file|cannot be written|is not an artefact"):
            check_output(place)


def test_page_and_card_are_checked_and_replaced(tmp_path: Path, small: tuple[nn.Module, Plan]) -> None:
    for _ in range(2):
        folder = save(tmp_path / "a", *small, RECIPE, REPORT, page="<p>", card="# Net")
    assert (folder / "README.md").read_text() == "# Net"
    (folder / "README.md").write_text("# Not")
    with pytest.raises(ArtefactError, match=r"README\.md was changed"):
        read(folder)


def _save_for_ever(folder: Path, count: int) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    made = plan(model)
    small = apply(model, made)
    for number in range(count):
        save(folder, small, made, {"number": number}, {"number": number})


def test_readers_and_writers_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    _save_for_ever(tmp_path / "a", 1)
    writers = [context.Process(target=_save_for_ever, args=(tmp_path / "a", 25)) for _ in range(2)]
    for process in writers:
        process.start()
    reads = 0
    while any(process.is_alive() for process in writers):
        artefact = read(tmp_path / "a")
        assert artefact.recipe == artefact.report  # of one save
        reads += 1
    for process in writers:
        process.join()
    assert [process.exitcode for process in writers] == [0, 0]
    assert reads
    assert os.listdir(tmp_path) == ["a"]


def test_a_killed_save_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for delay in (0.0, 0.011, 0.023, 0.037):
        _save_for_ever(tmp_path / "a", 1)
        process = context.Process(target=_save_for_ever, args=(tmp_path / "a", 10_000))
        process.start()
        time.sleep(delay)
        process.kill()
        artefact = read(tmp_path / "a")
        assert artefact.recipe == artefact.report
        process.join()
        _save_for_ever(tmp_path / "a", 1)
        assert os.listdir(tmp_path) == ["a"]


def test_state_that_is_not_a_tensor_is_refused(tmp_path: Path, small: tuple[nn.Module, Plan]) -> None:
    class Extra(Net):
        def get_extra_state(self) -> object:
            return {"a": 1}

        def set_extra_state(self, state: object) -> None:
            pass

    with pytest.raises(ArtefactError, match="only tensors"):
        save(tmp_path / "a", Extra(), small[1], {}, {})
