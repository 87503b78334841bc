"""Reading a packed file: its header at once, each tensor when it is asked for."""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import BinaryIO, TypeVar

import zstandard
from torch import Tensor

from secateur.ground.errors import ArtefactError, did_you_mean

from ..files import parse_json
from .coding import Nonzero, decode, decode_nonzero
from .header import PARSED, Record, Records, checked, memory
from .streams import DIGEST, Reader, unframed
from .words import TEXT

__all__ = ["MAGIC", "PREFIX", "VERSION", "PackedFile", "unpack"]

MAGIC = b"\x89SEC\r\n\x1a\n"  # not text, and changed by whatever rewrites line ends
VERSION = 2
PREFIX = struct.Struct("<8sIII32s")  # magic, version, stored and plain bytes of the header, SHA-256
MAX_HEADER = 1 << 24  # bytes of JSON
EXPANSION, ALLOWANCE = 2048, 1 << 28  # the default limit: so many times the file, and so many bytes besides

T = TypeVar("T")


class PackedFile(Mapping[str, Tensor]):
    """A packed file as a mapping of names to tensors; a tensor is read and checked when it is asked for.

    ``limit`` bounds the memory, in bytes, that reading all of it may take, texts included. By default that is 256 MiB
    and 2048 times the size of the file: nothing but zeros declares more. `texts` has the names of its documents.

    Raises:
        ArtefactError: it is not a packed file, damaged, of another version, or declares more than the limit.
    """

    def __init__(self, path: str | PathLike[str], limit: int | None = None) -> None:
        self.path = Path(path)
        self._lock, self._decompressor = threading.Lock(), zstandard.ZstdDecompressor()
        self._file = _open(self.path)
        try:
            size = os.fstat(self._file.fileno()).st_size
            self.records, start = self._header(size)
            self._check_limit(memory(self.records), EXPANSION * size + ALLOWANCE if limit is None else limit)
        except BaseException:
            self.close()
            raise
        self._tensors: dict[str, tuple[Record, int]] = {}  # with the place of its bytes
        self.texts: dict[str, tuple[Record, int]] = {}
        for record in self.records:
            of = self.texts if record.kind is TEXT else self._tensors
            of |= {name: (record, start) for names, _ in record.tensors for name in names}
            start += record.size

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise KeyError(f"{self.path} has no tensor {name!r}.{did_you_mean(name, self._tensors)}")
        return self._decoded(name, *self._tensors[name], decode)[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def all(self, *, without: Collection[str] = ()) -> dict[str, Tensor]:
        """Return every tensor but some; names of one tensor get the same object."""
        found: dict[str, Tensor] = {}
        for name, (record, start) in self._tensors.items():
            if name not in found and name not in without:
                found |= self._decoded(name, record, start, decode)
        return {name: found[name] for name in self._tensors if name not in without}

    def nonzero(self, name: str) -> Nonzero | None:
        """Return the elements of those blocks of a float32 tensor that are not zero; None where it has no blocks."""
        return self._decoded(name, *self._tensors[name], decode_nonzero)

    def text(self, name: str) -> str:
        """Return a text; where there is none of that name, or it is damaged, that is an `ArtefactError`."""
        if name not in self.texts:
            raise ArtefactError(f"{self.path} has no text {name!r}.{did_you_mean(name, self.texts)}")
        return self._decoded(
            name, *self.texts[name], lambda *of: decode(*of)[name].numpy().tobytes().decode()
        )

    def close(self) -> None:
        """Let go of the file; tensors that were read stay."""
        self._file.close()

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decoded(self, name: str, record: Record, start: int, decoder: Callable[[Record, Reader], T]) -> T:
        with self._lock:  # neither the place in the file nor a decompressor is for two threads at once
            stored = self._bytes(start, record.size)
            try:
                if hashlib.sha256(stored).hexdigest()[:DIGEST] != record.digest:
                    raise ArtefactError("it was changed or damaged: its bytes have another digest")
                return decoder(record, Reader(stored, self._decompressor))
            except (ArtefactError, UnicodeDecodeError) as error:  # a text that is none
                raise ArtefactError(f"{self.path}: {name!r}: {error}") from None

    def _bytes(self, start: int, size: int) -> memoryview:
        # Read, not mapped: a file that is cut short while it is open is an error then, not a signal.
        self._file.seek(start)
        data = self._file.read(size)
        if len(data) != size:
            raise ArtefactError(f"{self.path} is truncated: it ends at byte {start + len(data)}")
        return memoryview(data)

    def _header(self, size: int) -> tuple[Records, int]:
        """Return the records that the header lists, and where their bytes begin."""
        magic = bytes(self._bytes(0, min(size, len(MAGIC))))
        if not magic or not MAGIC.startswith(magic):
            raise ArtefactError(f"{self.path} is a file, but not a packed one: it begins with {magic!r}")
        prefix = self._bytes(0, PREFIX.size)
        _, version, stored, plain, expected = PREFIX.unpack(prefix)
        if version != VERSION:
            known = f"this secateur reads {VERSION}: " + ("update it" if version > VERSION else "pack again")
            raise ArtefactError(f"{self.path} has format version {version}, {known}")
        if max(stored, plain) > MAX_HEADER:
            raise ArtefactError(f"{self.path}: its header has more than {MAX_HEADER} bytes")
        self._check_limit(PARSED * plain, EXPANSION * size + ALLOWANCE)
        frame, end = self._bytes(PREFIX.size, stored), PREFIX.size + stored
        if hashlib.sha256(bytes(prefix[:-32]) + frame).digest() != expected:
            raise ArtefactError(f"{self.path}: its header was changed or damaged")
        try:
            text = str(unframed(frame, plain, plain, self._decompressor), "utf-8")
            records = checked(parse_json(text, "the header"))
        except UnicodeDecodeError as error:
            raise ArtefactError(f"{self.path}: the header is not JSON: {error}") from None
        except ArtefactError as error:
            raise ArtefactError(f"{self.path}: {error}") from None
        whole = end + sum(record.size for record in records)
        if whole != size:
            what = "truncated" if whole > size else "too long"
            raise ArtefactError(f"{self.path} is {what}: it has {size} bytes, its header describes {whole}")
        return records, end

    def _check_limit(self, needed: int, limit: int) -> None:
        if needed > limit:
            what = f"{needed} bytes of memory, more than the limit of {limit}"
            raise ArtefactError(f"{self.path} declares up to {what}; if you trust it, give a higher limit")


def unpack(path: str | PathLike[str], *, limit: int | None = None) -> dict[str, Tensor]:
    """Return all tensors of a packed file by name, as they were packed; see `PackedFile` for ``limit``.

    Raises:
        ArtefactError: it is not a packed file, damaged, of another version, or declares more than the limit.
    """
    with PackedFile(path, limit) as file:
        return file.all()


def _open(path: Path) -> BinaryIO:
    if not os.path.isfile(path):  # to open a pipe would wait for a writer
        raise ArtefactError(f"there is no packed file at {path}" + ", but a folder" * os.path.isdir(path))
    try:
        return path.open("rb")
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror}") from None
