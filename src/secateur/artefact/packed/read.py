"""Reading a packed file: its header at once, each tensor when it is asked for."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from math import prod
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from torch import Tensor

from secateur.ground.errors import ArtefactError, did_you_mean

from .coders import decompress
from .header import MAX_HEADER, Header, Record, TensorInfo, header_from_json
from .records import NonzeroBlocks, decode_blocks, decode_record, digest

__all__ = ["MAGIC", "PREFIX", "VERSION", "PackedFile", "is_packed", "unpack"]

MAGIC = b"\x89SEC\r\n\x1a\n"  # not text, and changed by whatever rewrites line ends
VERSION = 1
PREFIX = struct.Struct(
    "<8sIII32s"
)  # magic, version, stored and plain bytes of the header, digest of all of it
EXPANSION, ALLOWANCE = 2048, 1 << 28  # the default limit: so many times the file, and so many bytes besides


class PackedFile(Mapping[str, Tensor]):
    """A packed file as a mapping of names to tensors; a tensor is read and checked when it is asked for.

    ``limit`` bounds the memory that reading all of it may take, in bytes. By default that is 256 MiB and 2048
    times the size of the file: nothing but zeros declares more.

    Raises:
        ArtefactError: it is not a packed file, damaged, of a newer version, or declares more than the limit.
    """

    def __init__(self, path: str | PathLike[str], limit: int | None = None) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._file, size = _open(self.path)
        try:
            self.header, start = _header(self._bytes, size, self.path)
            self._check_limit(size, limit)
        except BaseException:
            self.close()
            raise
        self._starts: list[int] = []
        for record in self.header.records:
            self._starts.append(start)
            start += record.size
        self._documents = start
        of = {index: i for i, record in enumerate(self.header.records) for index in record.tensors}
        self._records = {tensor.name: of[i] for i, tensor in enumerate(self.header.tensors)}
        self._records |= {name: self._records[target] for name, target in self.header.tied.items()}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._records:
            raise KeyError(f"{self.path} has no tensor {name!r}.{did_you_mean(name, self._records)}")
        stored = self.header.tied.get(name, name)
        return self._read(self._records[name])[stored]

    def __contains__(self, name: object) -> bool:
        return name in self._records  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def all(self, *, without: Collection[str] = ()) -> dict[str, Tensor]:
        """Return every tensor but some; names of one tensor get the same object."""
        tensors: dict[str, Tensor] = {}
        for i, record in enumerate(self.header.records):
            if any(info.name not in without for info in self._infos(record)):
                tensors |= self._read(i)
        names = [tensor.name for tensor in self.header.tensors if tensor.name not in without]
        ordered = {name: tensors[name] for name in names}
        return ordered | {name: tensors[target] for name, target in self.header.tied.items()}

    def nonzero_blocks(self, name: str) -> NonzeroBlocks | None:
        """Return the blocks of a float32 tensor that are not zero, without the others; None where it has no blocks.

        Raises:
            ArtefactError: its bytes are damaged.
        """
        index = self._records[name]
        record = self.header.records[index]
        infos = self._infos(record)
        try:
            return decode_blocks(record, infos[0], self._bytes(self._starts[index], record.size))
        except ArtefactError as error:
            raise ArtefactError(f"{self.path}: {name}: {error}") from None

    @property
    def documents(self) -> tuple[str, ...]:
        """The names of its texts."""
        return tuple(document.name for document in self.header.documents)

    def text(self, name: str) -> str:
        """Return a text.

        Raises:
            ArtefactError: there is none of that name, or it is damaged.
        """
        start = self._documents
        for document in self.header.documents:
            if document.name == name:
                stored = self._bytes(start, document.size)
                if digest(stored) != document.digest:
                    raise ArtefactError(f"{self.path}: {name} was changed or damaged")
                try:
                    return decompress(stored, document.length).decode()
                except UnicodeDecodeError as error:
                    raise ArtefactError(f"{self.path}: {name} is not UTF-8 text: {error}") from None
                except ArtefactError as error:
                    raise ArtefactError(f"{self.path}: {name}: {error}") from None
            start += document.size
        raise ArtefactError(f"{self.path} has no {name}.{did_you_mean(name, self.documents)}")

    def close(self) -> None:
        """Let go of the file; tensors that were read stay."""
        self._file.close()

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, index: int) -> dict[str, Tensor]:
        record = self.header.records[index]
        infos = self._infos(record)
        try:
            tensors = decode_record(record, infos, self._bytes(self._starts[index], record.size))
        except ArtefactError as error:
            raise ArtefactError(f"{self.path}: {infos[0].name}: {error}") from None
        return {info.name: tensor for info, tensor in zip(infos, tensors, strict=True)}

    def _infos(self, record: Record) -> list[TensorInfo]:
        return [self.header.tensors[i] for i in record.tensors]

    def _bytes(self, start: int, size: int) -> memoryview:
        # Read, not mapped: a file that is cut short while it is open is an error then, not a signal.
        with self._lock:
            self._file.seek(start)
            data = self._file.read(size)
        if len(data) != size:
            raise ArtefactError(f"{self.path} is truncated: it was cut while it was read")
        return memoryview(data)

    def _check_limit(self, size: int, limit: int | None) -> None:
        if limit is None:
            limit = EXPANSION * size + ALLOWANCE
        needed = memory(self.header)
        if needed > limit:
            raise ArtefactError(
                f"{self.path} declares tensors that take up to {needed} bytes of memory to read, more than the limit "
                f"of {limit}; if you trust it, give a higher limit"
            )


def memory(header: Header) -> int:
    """Return how many bytes reading everything may take: all tensors, and room to work on the largest record."""
    sizes, work = [tensor.bytes for tensor in header.tensors], 0
    for record in header.records:
        first = header.tensors[record.tensors[0]]
        padded = sum(header.tensors[i].elements * first.kind.words for i in record.tensors)
        if record.layout is not None:
            padded = prod(record.layout.grid(first.word_shape)) * record.layout.size
        work = max(work, padded * (4 * first.kind.width + 16))
    return sum(sizes) + work


def unpack(path: str | PathLike[str], *, limit: int | None = None) -> dict[str, Tensor]:
    """Return all tensors of a packed file by name, as they were packed; see `PackedFile` for ``limit``.

    Raises:
        ArtefactError: it is not a packed file, damaged, of a newer version, or declares more than the limit.
    """
    with PackedFile(path, limit) as file:
        return file.all()


def is_packed(path: Path) -> bool:
    """Whether a file begins as packed files do."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _open(path: Path) -> tuple[BinaryIO, int]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise ArtefactError(f"there is no packed file at {path}") from None
    except IsADirectoryError:
        raise ArtefactError(f"{path} is a folder, not a packed file") from None
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise ArtefactError(f"{path} is not an ordinary file")
    return file, status.st_size


def _header(read: Callable[[int, int], memoryview], size: int, path: Path) -> tuple[Header, int]:
    """Return the header and where the records begin."""
    prefix = read(0, min(size, PREFIX.size))
    if prefix[: len(MAGIC)] != MAGIC[: len(prefix)] or not size:
        raise ArtefactError(f"{path} is a file, but not a packed one: it begins with {bytes(prefix[:8])!r}")
    if size < PREFIX.size:
        raise ArtefactError(f"{path} is truncated: it has {size} bytes")
    _, version, stored, plain, expected = PREFIX.unpack(prefix)
    if version != VERSION:
        known = f"this secateur reads version {VERSION}"
        raise ArtefactError(f"{path} has format version {version}, {known}: update secateur")
    if stored > MAX_HEADER or plain > MAX_HEADER:
        raise ArtefactError(f"{path}: its header has more than {MAX_HEADER} bytes")
    end = PREFIX.size + stored
    if end > size:
        raise ArtefactError(f"{path} is truncated: it ends within its header")
    text = read(PREFIX.size, stored)
    if header_digest(prefix[:-32], text) != expected:
        raise ArtefactError(f"{path}: its header was changed or damaged")
    try:
        header = header_from_json(decompress(text, plain))
    except ArtefactError as error:
        raise ArtefactError(f"{path}: {error}") from None
    if end + header.size != size:
        what = "truncated" if end + header.size > size else "too long"
        raise ArtefactError(
            f"{path} is {what}: it has {size} bytes, its header describes {end + header.size}"
        )
    return header, end


def header_digest(prefix: bytes | memoryview, stored: bytes | memoryview) -> bytes:
    """Return the BLAKE2b digest of what stands before it and the stored header."""
    state = hashlib.blake2b(prefix, digest_size=32)
    state.update(stored)
    return state.digest()
