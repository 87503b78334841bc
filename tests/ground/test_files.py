"""Files and folders appear whole or not at all; what dead processes left goes; every failure has words."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest

import secateur.ground.files as files
from secateur.ground.errors import ArtefactError, ExportError
from secateur.ground.files import check_writable, interrupted, replacing, replacing_files, write_whole

DEAD = f"{files._machine()}-999999999-1-0123456789ab"
FORK = multiprocessing.get_context("spawn")


def write_folder(folder: Path, text: str) -> None:
    with replacing(folder, ArtefactError) as fresh:
        for name in "abc":
            (fresh / name).write_text(text)


def content(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in "abc"]


@pytest.fixture(params=[True, False], ids=["exchange", "two renames"])
def exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    return bool(request.param)


@pytest.mark.usefixtures("exchange")
def test_folders_are_replaced_and_nothing_is_left(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write_folder(tmp_path / "deep" / "f", text)
        assert content(tmp_path / "deep" / "f") == [text] * 3
    assert os.listdir(tmp_path / "deep") == ["f"]


def test_files_are_replaced_and_nothing_is_left(tmp_path: Path) -> None:
    write_whole(tmp_path / "deep" / "f", b"old", ArtefactError)
    write_whole(tmp_path / "deep" / "f", (b"ne", memoryview(b"w")), ArtefactError)
    assert (tmp_path / "deep" / "f").read_bytes() == b"new"
    with replacing_files(tmp_path / "deep" / "g", ExportError) as fresh:
        fresh.write_text("one")
        fresh.with_name("g.data").write_text("two")
    assert sorted(os.listdir(tmp_path / "deep")) == ["f", "g", "g.data"]


def test_what_dead_processes_left_goes_and_what_live_ones_do_stays(tmp_path: Path) -> None:
    other = f"{files._machine()}-{os.getppid()}-{files._started(os.getppid())}-0123456789ab"
    for name in (
        f".f.{DEAD}.partial",
        f".f.{DEAD}.older",
        f".f.{other}.partial",
        f".g.{DEAD}.partial",
        ".f.x.partial",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("half")
    write_folder(tmp_path / "f", "new")
    assert sorted(os.listdir(tmp_path)) == sorted(
        [f".f.{other}.partial", f".g.{DEAD}.partial", ".f.x.partial", "f"]
    )
    (tmp_path / f".w.{DEAD}.partial").write_text("half")
    write_whole(tmp_path / "w", b"new", ArtefactError)
    assert not (tmp_path / f".w.{DEAD}.partial").exists()


def test_of_another_machine_only_what_is_old_goes(tmp_path: Path) -> None:
    for age, name in (
        (0, ".f.00000000-1-2-0123456789ab.partial"),
        (2 * files.OLD, ".f.00000001-1-2-0123456789ab.partial"),
    ):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    write_whole(tmp_path / "f", b"new", ArtefactError)
    assert sorted(os.listdir(tmp_path)) == [".f.00000000-1-2-0123456789ab.partial", "f"]


def test_an_older_folder_counts_only_while_its_replacement_is_there(tmp_path: Path) -> None:
    older = tmp_path / f".f.{DEAD}.older"
    older.mkdir()
    assert interrupted(tmp_path / "f") is None
    older.with_suffix(".partial").mkdir()
    assert interrupted(tmp_path / "f") == older
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "f", ArtefactError):
        1 / 0  # noqa: B018
    assert os.listdir(tmp_path) == ["f"]  # it is back in its place


@pytest.mark.usefixtures("exchange")
def test_a_failure_inside_leaves_the_old(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", "old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "f", ArtefactError) as fresh:
        (fresh / "a").write_text(str(1 / 0))
    assert content(tmp_path / "f") == ["old"] * 3
    assert os.listdir(tmp_path) == ["f"]


def test_places_that_cannot_be_are_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, why in (
        (tmp_path / "file" / "f", "Not a directory|File exists"),
        (tmp_path / ("o" * 300), "File name too long"),
        (Path("o/" * 3000), "File name too long"),
        (Path("/proc/self/f"), "No such file|Permission denied|Operation not permitted"),
    ):
        with pytest.raises(ArtefactError, match=f"cannot be written: ({why})"):
            check_writable(path, ArtefactError)
        with pytest.raises(ArtefactError, match=f"cannot be written: ({why})"):
            write_whole(path, b"", ArtefactError)
        with pytest.raises(ExportError, match=f"cannot be written: ({why})"):
            write_folder_as(path)
    with pytest.raises(ArtefactError, match="is a folder"):
        write_whole(tmp_path, b"", ArtefactError)
    check_writable(tmp_path / "a" / "b" / "c", ArtefactError)
    check_writable(tmp_path / ("o" * 250), ArtefactError)
    write_whole(tmp_path / ("o" * 250), b"", ArtefactError)
    assert sorted(os.listdir(tmp_path)) == ["file", "o" * 250]


def write_folder_as(path: Path) -> None:
    with replacing(path, ExportError):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files there")
def test_a_full_disk_is_said_and_the_old_stays(tmp_path: Path) -> None:
    write_whole(tmp_path / "f", b"old", ArtefactError)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ArtefactError, match="f' cannot be written: File too large"):
            write_whole(tmp_path / "f", bytes(100_000), ArtefactError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert (tmp_path / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def _write_for_ever(folder: Path, exchange: bool) -> None:
    if not exchange:
        files._exchange = lambda *_: False  # type: ignore[assignment]
    for number in range(100_000):
        write_folder(folder / "f", f"{number}" * 1000)
        write_whole(folder / "w", f"{number}".encode() * 1000, ArtefactError)


def _write_some(folder: Path, text: str, exchange: bool, times: int) -> None:
    if not exchange:
        files._exchange = lambda *_: False  # type: ignore[assignment]
    for _ in range(times):
        write_folder(folder / "f", text)


def test_a_killed_process_leaves_the_old_or_the_new(tmp_path: Path, exchange: bool) -> None:
    for round_ in range(4):
        process = FORK.Process(target=_write_for_ever, args=(tmp_path, exchange))
        process.start()
        while not (tmp_path / "w").exists():
            time.sleep(0.01)
        time.sleep(0.003 * round_)
        process.kill()  # and not yet waited for
        folder = interrupted(tmp_path / "f") or tmp_path / "f"
        assert len(set(content(folder))) == 1
        process.join()
        write_folder(tmp_path / "f", "last")
        write_whole(tmp_path / "w", b"last", ArtefactError)
        assert sorted(os.listdir(tmp_path)) == ["f", "w"]
        (tmp_path / "w").unlink()


def test_two_processes_write_one_folder(tmp_path: Path, exchange: bool) -> None:
    both = [FORK.Process(target=_write_some, args=(tmp_path, text, exchange, 60)) for text in ("one", "two")]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert content(tmp_path / "f") in (["one"] * 3, ["two"] * 3)
    assert os.listdir(tmp_path) == ["f"]
