"""Files and folders: bounded reading without following links, and replacing a folder as a whole."""

from __future__ import annotations

import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import yaml

from secateur.ground.errors import ArtefactError

from .manifest import CONFIGS, FILES, MODEL, PAGE, PLAN

__all__ = [
    "find",
    "parse_json",
    "parse_yaml",
    "printable",
    "read_text",
    "regular_file",
    "replacing",
    "write",
    "write_whole",
]

MAX_TEXT = 64 * 2**20
MAX_DEPTH = 64
BUFFER = 1 << 17  # bytes: chunks are small, calls of the system are not


def find(folder: Path) -> Path:
    """Return the folder to read: the artefact itself, or the older one that an interrupted save set aside.

    Raises:
        ArtefactError: neither is there.
    """
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ArtefactError(f"{folder} is a file; an artefact is a folder that holds {', '.join(FILES)}")
    if _aside(folder).is_dir():
        return _aside(folder)
    raise ArtefactError(f"there is no artefact at {folder}")


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
    if not stat.S_ISREG(mode):
        raise ArtefactError(f"{path} is not an ordinary file; links are not followed")
    return path


def read_text(folder: Path, name: str) -> str:
    """Return the content of a text file of at most 64 MiB.

    Raises:
        ArtefactError: it is missing, too long, or not UTF-8.
    """
    path = regular_file(folder, name)
    with path.open("rb") as file:
        data = file.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise ArtefactError(f"{path} has more than {MAX_TEXT} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtefactError(f"{path} is not UTF-8 text: {error}") from None


def parse_json(text: str | bytes, name: str) -> object:
    """Parse strict JSON, in UTF-8: each key once, no NaN or infinity, at most 64 levels.

    Raises:
        ArtefactError: it is not that.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            raise ArtefactError(f"{name} has the same key twice in one object")
        return entries

    def refuse(constant: str) -> NoReturn:
        raise ArtefactError(f"{name} holds {constant}, which is not JSON")

    try:
        text = text if isinstance(text, str) else text.decode()
        data: object = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except RecursionError:
        raise ArtefactError(f"{name} is nested more than {MAX_DEPTH} levels deep") from None
    except ValueError as error:
        raise ArtefactError(f"{name} is not JSON, perhaps truncated: {error}") from None
    _check_depth(data, name)
    return data


def parse_yaml(text: str, name: str) -> object:
    """Parse plain YAML: no tags, no anchors, at most 64 levels.

    Raises:
        ArtefactError: it is not that.
    """
    try:
        # Aliases let a short file stand for a huge one; a recipe has no use for them.
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ArtefactError(f"{name} has a YAML alias, which is not allowed")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ArtefactError(f"{name} is nested more than {MAX_DEPTH} levels deep")
        data: object = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ArtefactError(f"{name} is not YAML: {error}") from None
    except (ValueError, TypeError) as error:  # a date out of range, a key that cannot be hashed
        raise ArtefactError(f"{name} holds a value that is not allowed: {error}") from None
    return data


def _check_depth(data: object, name: str) -> None:
    level, depth = [data], 0
    while level:
        if depth > MAX_DEPTH:
            raise ArtefactError(f"{name} is nested more than {MAX_DEPTH} levels deep")
        inner: list[object] = []
        for entry in level:
            if isinstance(entry, dict):
                inner.extend(v for v in entry.values() if isinstance(v, dict | list))
            elif isinstance(entry, list):
                inner.extend(v for v in entry if isinstance(v, dict | list))
        level, depth = inner, depth + 1


def printable(text: str) -> str:
    """Return a text with everything escaped that a terminal would obey, such as colours and line ends.

    >>> print(printable("a\\x1b[2J\\nb"))
    a\\x1b[2J\\nb
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write_whole(path: str | PathLike[str], chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file that appears whole or not at all.

    Raises:
        ArtefactError: the path is a folder, or it cannot be written.
    """
    path = Path(os.path.realpath(path))
    if os.path.isdir(path):  # False, not an error, where the name is too long
        raise ArtefactError(f"{path} is a folder: choose another name")
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb", buffering=BUFFER) as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def write(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write into; at the end it takes the place of an older artefact as a whole.

    If anything fails the older artefact stays as it was. A process killed between the two renames leaves it
    aside, where `find` finds it.

    Raises:
        ArtefactError: in the place of the artefact is something else, which is not overwritten.
    """
    folder = Path(os.path.realpath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(folder)
    if not folder.exists() and aside.is_dir():
        aside.rename(folder)
    _check_replaceable(folder)
    fresh = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    fresh.mkdir()
    try:
        yield fresh
        _sync(fresh)
        if folder.exists():
            if aside.exists():
                shutil.rmtree(aside)
            folder.rename(aside)
        try:
            fresh.rename(folder)
        except OSError:
            if aside.is_dir() and not folder.exists():
                aside.rename(folder)
            raise
        _sync(folder.parent)
        if aside.is_dir():
            shutil.rmtree(aside)
    finally:
        if fresh.exists():
            shutil.rmtree(fresh)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.older")


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ArtefactError(f"{folder} is a file: save the artefact under another name")
    names = {entry.name for entry in folder.iterdir()}
    if names and not {PLAN, MODEL} & names:
        raise ArtefactError(f"{folder} is not an artefact and is not overwritten: save under another name")
    strange = sorted(names - {*FILES, PAGE, *CONFIGS})
    if strange:
        raise ArtefactError(
            f"{folder} holds {strange[0]!r}, which secateur did not write and would delete: move it elsewhere"
        )


def _sync(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open folders; its file system journals renames
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
