"""From the files in which image sets are published to arrays; nothing here touches the network."""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secateur.ground.errors import DataError

__all__ = ["Arrays", "Decoder", "cifar_archive", "cifar_sheets", "idx", "idx_files"]


@dataclass(frozen=True)
class Arrays:
    """Training and test images, uint8 (N, H, W, C), with their labels, int64 (N,)."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray

    def digests(self) -> tuple[str, str, str, str]:
        """Return the sha256 of each array in the order of the fields; labels are hashed as one byte each."""
        arrays = (self.train_x, self.train_y.astype(np.uint8), self.test_x, self.test_y.astype(np.uint8))
        a, b, c, d = (hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest() for x in arrays)
        return a, b, c, d


Decoder = Callable[[Path], Arrays]
"""Reads the files of one published form, anywhere below a folder."""


def idx(data: bytes) -> np.ndarray:
    """Decode the bytes of an IDX file of unsigned bytes (LeCun's format for MNIST).

    Raises:
        DataError: the header is not one of unsigned bytes, or the length is not what it says.
    """
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise DataError("not an IDX file of unsigned bytes")
    start = 4 + 4 * data[3]
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4))
    if len(data) < start or len(data) - start != np.prod(shape, dtype=np.int64):
        raise DataError(f"an IDX file of shape {shape} holds {len(data) - start} values: truncated?")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()


def idx_files(folder: Path) -> Arrays:
    """Read the four IDX files of MNIST or Fashion-MNIST, compressed or not.

    Raises:
        DataError: a file is missing or truncated.
    """

    def read(name: str) -> np.ndarray:
        path = _find(folder, (f"{name}-ubyte", f"{name}-ubyte.gz"))
        data = path.read_bytes()
        return idx(gzip.decompress(data) if path.suffix == ".gz" else data)

    x, xt = (read(f"{split}-images-idx3")[..., None] for split in ("train", "t10k"))
    y, yt = (read(f"{split}-labels-idx1").astype(np.int64) for split in ("train", "t10k"))
    return Arrays(x, y, xt, yt)


def cifar_sheets(folder: Path) -> Arrays:
    """Read CIFAR-10 from PNG sheets (one image a row, 1,024 pixels wide) and JSON label lists.

    Raises:
        DataError: a file is missing, or Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DataError("this form needs Pillow: pip install 'secateur[data]'") from None

    def sheet(name: str) -> np.ndarray:
        return np.array(Image.open(_find(folder, (name,))).convert("RGB")).reshape(-1, 32, 32, 3)

    def labels(name: str) -> np.ndarray:
        return np.array(json.loads(_find(folder, (name,)).read_text()), np.int64)

    # The sheets are far beyond Pillow's guard against bombs; their content is hashed afterwards.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        train = np.concatenate([sheet(f"data_batch_{i}.png") for i in range(1, 6)])
        test = sheet("test_batch.png")
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    return Arrays(train, labels("train_lables.json"), test, labels("test_lables.json"))


@dataclass(frozen=True)
class cifar_archive:  # noqa: N801 - used as a function with settings
    """Decoder of CIFAR's binary archives; the last label byte before each image is the fine label."""

    name: str
    md5: str  # of the archive
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int

    def __call__(self, folder: Path) -> Arrays:
        """Read the archive below `folder` without unpacking it.

        Raises:
            DataError: the archive is missing, does not hash to `md5`, or lacks a file.
        """
        path = _find(folder, (self.name,))
        with path.open("rb") as f:
            found = hashlib.file_digest(f, "md5").hexdigest()
        if found != self.md5:
            raise DataError(f"{self.name} hashes to md5 {found}, not {self.md5}: download it again")
        with tarfile.open(path) as archive:
            members = {Path(m.name).name: m for m in archive.getmembers() if m.isfile()}
            rows = [self._read(archive, members, names) for names in (self.train, self.test)]
        (x, y), (xt, yt) = rows
        return Arrays(x, y, xt, yt)

    def _read(
        self, archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], names: Iterable[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for name in names:
            file = archive.extractfile(members[name]) if name in members else None
            if file is None:
                raise DataError(f"{self.name} holds no {name}")
            parts.append(np.frombuffer(file.read(), np.uint8).reshape(-1, self.label_bytes + 3072))
        data = np.concatenate(parts)
        images = data[:, self.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images), data[:, self.label_bytes - 1].astype(np.int64)


def _find(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        for path in sorted(folder.rglob(name)):
            return path
    raise DataError(f"no file {' or '.join(names)} in {folder}")
