"""The files of an artefact: read bounded, without following links, as the manifest says; replaced as a whole."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from secateur.ground import files
from secateur.ground.documents import parse_json, parse_yaml
from secateur.ground.errors import ArtefactError

from .manifest import (
    CARD,
    CONFIGS,
    FILES,
    MANIFEST,
    MODEL,
    PAGE,
    PLAN,
    Entry,
    entries_from_json,
    entries_to_json,
)

__all__ = [
    "check_output",
    "find",
    "manifest_of",
    "parse_json",
    "parse_yaml",
    "read_text",
    "regular_file",
    "replacing",
    "steady",
    "verified",
    "write",
]

MAX_TEXT = 64 * 2**20
MAX_MANIFEST = 2**16
ATTEMPTS = 50  # of reading a folder that others replace meanwhile

T = TypeVar("T")


def find(folder: Path) -> Path:
    """Return the folder to read: the artefact itself, or the older one that an interrupted save set aside.

    Raises:
        ArtefactError: neither is there.
    """
    if os.path.isdir(folder):
        return folder
    if os.path.exists(folder):
        raise ArtefactError(f"{folder} is a file; an artefact is a folder that holds {', '.join(FILES)}")
    if older := files.interrupted(folder):
        return older
    raise ArtefactError(f"there is no artefact at {folder!s:.300}")


def regular_file(folder: Path, name: str) -> Path:
    """Return the path of an artefact's file.

    Raises:
        ArtefactError: it is missing, or not an ordinary file (a link might lead anywhere).
    """
    path = folder / name
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        raise ArtefactError(f"the artefact {folder} has no file {name}: it is incomplete") from None
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror or error}") from None
    if not stat.S_ISREG(mode):
        raise ArtefactError(f"{path} is not an ordinary file; links are not followed")
    return path


def read_text(folder: Path, name: str) -> str:
    """Return the content of a text file of at most 64 MiB, which is what the manifest says.

    Raises:
        ArtefactError: it is missing, too long, not UTF-8, or was changed since it was saved.
    """
    return _text(folder, name, _entry(manifest_of(folder), folder, name))


def manifest_of(folder: Path) -> dict[str, Entry]:
    """Return size and hash of each file of an artefact by name.

    Raises:
        ArtefactError: there is no manifest, or it is not one.
    """
    data = parse_json(_text(folder, MANIFEST, None, MAX_MANIFEST), MANIFEST)
    return entries_from_json(data)


def verified(folder: Path) -> dict[str, Entry]:
    """Check every file that the manifest of an artefact names, but the tensors, and return the manifest.

    Raises:
        ArtefactError: a file is missing, or was changed since it was saved.
    """
    entries = manifest_of(folder)
    for name in FILES:
        _entry(entries, folder, name)
    for name in entries.keys() - {MODEL}:
        path = _sized(folder, name, entries[name])
        with _readable(path):
            _check_hash(path, _digest(path), entries[name])
    return entries


def steady(path: Path, read: Callable[[Path], T]) -> T:
    """Return what `read` makes of an artefact's folder; again where another process replaced the folder meanwhile.

    Raises:
        ArtefactError: as `find` and `read` do, of a folder that stayed as it was.
    """
    for _ in range(ATTEMPTS):
        before = _identity(path)
        try:
            found = read(find(path))
        except ArtefactError:
            if _identity(path) == before:
                raise
            continue
        if _identity(path) == before:
            return found
    raise ArtefactError(f"{path} is replaced all the time by another process: wait until it is done")


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _entry(entries: dict[str, Entry], folder: Path, name: str) -> Entry:
    if name not in entries:
        raise ArtefactError(f"{folder / MANIFEST} does not name {name}: the artefact is incomplete")
    return entries[name]


def _text(folder: Path, name: str, entry: Entry | None, most: int | None = None) -> str:
    path = regular_file(folder, name) if entry is None else _sized(folder, name, entry)
    most = MAX_TEXT if most is None else most
    with _readable(path), path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ArtefactError(f"{path} has more than {most} bytes")
    if entry is not None:
        _check_hash(path, hashlib.sha256(data).hexdigest(), entry)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtefactError(f"{path} is not UTF-8 text: {error}") from None


def _sized(folder: Path, name: str, entry: Entry) -> Path:
    path = regular_file(folder, name)
    with _readable(path):
        size = path.stat().st_size
    if size != entry.size:
        what = "truncated" if size < entry.size else "too long"
        raise ArtefactError(f"{path} is {what}: it has {size} bytes, {MANIFEST} says {entry.size}")
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_hash(path: Path, found: str, entry: Entry) -> None:
    if found != entry.sha256:
        raise ArtefactError(f"{path} was changed: its content does not have the hash that {MANIFEST} says")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror or error}") from None


def write(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write into; at the end it gets a manifest and takes an older artefact's place as a whole.

    If anything fails the older artefact stays as it was.

    Raises:
        ArtefactError: in the place of the artefact is something else, which is not overwritten, or it cannot be
            written.
    """
    _check_replaceable(folder)
    with files.replacing(folder, ArtefactError) as fresh:
        yield fresh
        entries = {}
        for path in sorted(fresh.iterdir()):
            entries[path.name] = Entry(path.stat().st_size, _digest(path))
        write(fresh / MANIFEST, json.dumps(entries_to_json(entries), indent=1).encode())


def check_output(folder: Path) -> None:
    """Check before a run that an artefact can be saved there.

    Raises:
        ArtefactError: there is something else, or the place cannot be written.
    """
    files.check_writable(folder, ArtefactError)
    _check_replaceable(folder)


def _check_replaceable(folder: Path) -> None:
    if not os.path.exists(folder):  # also where a part of the path is a file, or too long
        return
    if not folder.is_dir():
        raise ArtefactError(f"{folder} is a file: save the artefact under another name")
    names = {entry.name for entry in folder.iterdir()}
    if names and not {PLAN, MODEL} & names:
        raise ArtefactError(f"{folder} is not an artefact and is not overwritten: save under another name")
    strange = sorted(names - {*FILES, MANIFEST, PAGE, CARD, *CONFIGS})
    if strange:
        raise ArtefactError(
            f"{folder} holds {strange[0]!r}, which secateur did not write and would delete: move it elsewhere"
        )
