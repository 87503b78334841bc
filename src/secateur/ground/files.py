"""Files and folders that appear as a whole or not at all, whoever is killed, and however many write at once.

What is not finished lies beside its place as ``.NAME.PROCESS-RANDOM.partial``; the next write to that place removes
what processes left that are no more. Every failure of the system becomes an error of the caller's kind that says what
cannot be written, and why.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["check_writable", "interrupted", "replacing", "replacing_files", "write_whole"]

PARTIAL, OLDER = "partial", "older"
TRIES = 100  # of putting a folder into its place while others do the same
BUFFER = 1 << 17  # bytes: chunks may be small, calls of the system are not
OLD = 86_400.0  # seconds; where processes cannot be asked for, what is older than that belongs to none
_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of Linux


def write_whole(path: Path, data: bytes | Iterable[bytes | memoryview], error: type[Exception]) -> None:
    """Write a file: a reader finds the old one or the new one, on the disk, never half of one.

    Raises:
        error: the path is a folder or cannot be written; the message says why.
    """
    with replacing_files(path, error) as fresh, fresh.open("wb", buffering=BUFFER) as file:
        for chunk in (data,) if isinstance(data, bytes) else data:
            file.write(chunk)


@contextmanager
def replacing_files(path: Path, error: type[Exception]) -> Iterator[Path]:
    """Give the path of a file to write in a folder of its own; at the end all files there are moved into place.

    The named file moves last: files beside it (external data) are then there already. If anything fails, what was
    there before stays.

    Raises:
        error: the path is a folder or cannot be written.
    """
    path = _place(path, error)
    with _spoken(path, error), _beside(path) as fresh:
        fresh.mkdir()
        yield fresh / path.name
        for file in sorted(fresh.iterdir(), key=lambda f: f.name == path.name):
            with file.open("rb+") as written:
                os.fsync(written.fileno())
            file.replace(path.with_name(file.name))
        _sync(path.parent)


@contextmanager
def replacing(folder: Path, error: type[Exception]) -> Iterator[Path]:
    """Give an empty folder to write into; at the end it takes the place of `folder` as a whole.

    If anything fails, or the process is killed, the older folder is as it was (`interrupted` finds it where the system
    cannot exchange two folders at once). Of several processes that replace it, the last one wins.

    Raises:
        error: it cannot be written.
    """
    with _spoken(folder, error):
        folder = Path(os.path.realpath(folder))
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists() and (left := interrupted(folder)):
            left.rename(folder)
        with _beside(folder) as fresh:
            fresh.mkdir()
            yield fresh
            for file in fresh.iterdir():
                if file.is_file():
                    _sync(file)
            _sync(fresh)
            _swap(fresh, folder)
            _sync(folder.parent)


def interrupted(folder: Path) -> Path | None:
    """Return the older folder that a process was about to replace when it was killed, if there is none in its place."""
    folder = Path(os.path.realpath(folder))
    if os.path.exists(folder):
        return None
    for older in _left(folder, OLDER):
        # Alone it is rubbish of a replacement that was done: the folder was deleted since, by somebody who meant it.
        if older.is_dir() and older.with_suffix(f".{PARTIAL}").is_dir():
            return older
    return None


def check_writable(path: Path, error: type[Exception]) -> None:
    """Check before hours of work that a file or folder can be made at a path; nothing is left there.

    Raises:
        error: it cannot; the message says why.
    """
    with _spoken(path, error):
        path = Path(os.path.realpath(path))
        with suppress(FileNotFoundError):
            path.lstat()  # says what is wrong with the name
        parent = next(p for p in path.parents if os.path.lexists(p))
        (trial := parent / f".{_process()}-{uuid.uuid4().hex[:12]}.{PARTIAL}").mkdir()
        trial.rmdir()


def _place(path: Path, error: type[Exception]) -> Path:
    """Return where the file is in truth, with a folder around it."""
    with _spoken(path, error):
        path = Path(os.path.realpath(path))
        if path.is_dir():
            raise error(f"{str(path)!r} cannot be written: it is a folder, choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@contextmanager
def _spoken(path: Path, error: type[Exception]) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        name = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]}..."
        raise error(f"{name!r} cannot be written: {fault.strerror or fault}") from fault


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a free name beside a path, and clean up: what is there at the end, and what dead processes left."""
    for suffix in (PARTIAL, OLDER):
        for left in _left(path, suffix):
            if not _alive(left):
                _remove(left)
    fresh = path.with_name(f".{_stem(path)}.{_process()}-{uuid.uuid4().hex[:12]}.{PARTIAL}")
    try:
        yield fresh
    finally:
        _remove(fresh)
        _remove(fresh.with_suffix(f".{OLDER}"))


def _swap(fresh: Path, folder: Path) -> None:
    """Put a folder in another's place; the other one is then where the first was."""
    older = fresh.with_suffix(f".{OLDER}")
    for attempt in range(TRIES):
        try:
            if not folder.exists():
                fresh.rename(folder)
                return
            if _exchange(fresh, folder):
                return
            folder.rename(older)
            try:
                fresh.rename(folder)
            except OSError:
                if not folder.exists():
                    older.rename(folder)
                raise
            return
        except OSError as fault:  # another process was between
            again = fault.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)
            if not again or attempt == TRIES - 1 or not fresh.exists():
                raise
            _remove(older)
            time.sleep(0.001 * attempt)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders at once, and say whether this system can."""
    rename: Any = _renameat2()
    if rename is None:
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    fault = ctypes.get_errno()
    if fault in (
        errno.EINVAL,
        errno.ENOSYS,
        errno.EOPNOTSUPP,
        errno.EPERM,
    ):  # an old kernel, another file system
        return False
    raise OSError(fault, os.strerror(fault), str(other))


@cache
def _renameat2() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function: Any = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function


def _left(path: Path, suffix: str) -> list[Path]:
    """Return what processes left beside a path, or are at."""
    start, end = f".{_stem(path)}.", f".{suffix}"
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:
        return []
    found = [n for n in names if n.startswith(start) and n.endswith(end)]
    return [path.with_name(n) for n in found if n[len(start) : -len(end)].count("-") == 3]


def _stem(path: Path) -> str:
    """Return the name, or what stands for one that is too long to be part of another."""
    name = path.name
    return name if len(os.fsencode(name)) <= 120 else hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _process() -> str:
    """Return a name of this process, which no other on this or another machine has."""
    return f"{_machine()}-{os.getpid()}-{_started(os.getpid())}"


@cache
def _machine() -> str:
    """Return a name of what numbers processes: a machine since it was started, or a container there."""
    parts = []
    for path in ("/proc/sys/kernel/random/boot_id", "/etc/hostname"):
        with suppress(OSError):
            parts.append(Path(path).read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    import platform

    return hashlib.sha256(" ".join([platform.node(), *parts]).encode()).hexdigest()[:8]


def _started(process: int) -> str:
    """Return when a process was started, in the system's own count; "0" where that is not known, "" of a dead one."""
    if not Path("/proc/self/stat").exists():
        return "0"
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _alive(left: Path) -> bool:
    """Whether the process that made a partial file or folder may still be at it."""
    machine, process, started, _ = left.name.split(".")[-2].split("-")
    if machine == _machine() and process.isdecimal():
        if started != "0":
            return _started(int(process)) == started
        if os.name != "nt":
            try:
                os.kill(int(process), 0)
            except ProcessLookupError:
                return False
            except OSError:
                return True
            return True
    try:
        return time.time() - left.lstat().st_mtime < OLD
    except OSError:
        return False


def _remove(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    if os.name == "nt":  # Windows cannot open folders; its file system journals renames
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
