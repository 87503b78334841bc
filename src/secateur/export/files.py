"""Files that appear as a whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateur.ground.errors import ExportError

__all__ = ["replacing_file"]


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Give the path of a file to write in a folder of its own; at the end all files there are moved into place.

    The named file moves last: files beside it (external data) are then there already. If anything fails, what was
    there before stays.

    Raises:
        ExportError: in its place is a folder, or the place cannot be written.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise ExportError(f"{path} is a folder: name the file to write, for instance {path / 'model.onnx'}")
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        fresh.mkdir(parents=True)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error}") from error
    try:
        yield fresh / path.name
        for file in sorted(fresh.iterdir(), key=lambda f: f.name == path.name):
            with file.open("rb+") as written:
                os.fsync(written.fileno())
            file.replace(path.with_name(file.name))
    finally:
        shutil.rmtree(fresh)
