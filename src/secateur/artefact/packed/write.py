"""Writing a packed file."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor

from secateur.ground.errors import ArtefactError, did_you_mean
from secateur.ground.progress import track

from .blocks import Blocks
from .coders import SMALLEST, Effort, compress
from .header import (
    MAX_HEADER,
    MAX_NAME,
    MAX_TENSORS,
    Document,
    Header,
    Record,
    TensorInfo,
    check_layout,
    header_to_json,
)
from .quantise import Quantise
from .read import MAGIC, PREFIX, VERSION, header_digest
from .records import Encoded, digest, encode_small, encode_tensor
from .words import kind_of

__all__ = ["write_file", "write_packed"]

SMALL = 1024  # elements: tensors of fewer go into one record with others of their type
BUFFER = 1 << 17  # bytes: streams are small, calls of the system are not
TOGETHER = 1 << 16  # elements of such a record, at most


@dataclass(frozen=True)
class _Coded:
    encoded: Encoded
    record: Record


def write_packed(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    tied: Mapping[str, str] | None = None,
    documents: Mapping[str, bytes] | None = None,
    quantise: Quantise | None = None,
    blocks: Mapping[str, Blocks] | None = None,
    smallest: bool = False,
) -> Header:
    """Write tensors and texts to a file, which appears whole or not at all, and return its header.

    Raises:
        ArtefactError: a tensor cannot be stored, or there are too many.
    """
    effort = SMALLEST if smallest else Effort()
    names = list(tensors)
    _check_names([*names, *(tied or ())])
    infos = tuple(TensorInfo(n, kind_of(t, n), tuple(t.shape)) for n, t in tensors.items())
    _check_blocks(infos, blocks or {})
    coded: list[_Coded] = []
    groups = _groups(infos, quantise, blocks or {})
    for group in track(groups, "packing"):
        if len(group) > 1:
            encoded = encode_small({names[i]: tensors[names[i]] for i in group}, effort)
        else:
            name = names[group[0]]
            wanted = quantise if _quantised(infos[group[0]], quantise) else None
            encoded = encode_tensor(name, tensors[name], effort, wanted, (blocks or {}).get(name))
        coded.append(_Coded(encoded, encoded.record(group)))
    texts = {name: compress(text, effort.text) for name, text in (documents or {}).items()}
    header = Header(
        infos,
        tuple(entry.record for entry in coded),
        dict(tied or {}),
        tuple(
            Document(name, len(text), len(texts[name]), digest(texts[name]))
            for name, text in (documents or {}).items()
        ),
    )
    streams = (stream.data for entry in coded for stream in entry.encoded.streams)
    write_file(path, [*_beginning(header, effort), *streams, *texts.values()])
    return header


def _groups(
    infos: Sequence[TensorInfo], quantise: Quantise | None, blocks: Mapping[str, Blocks]
) -> list[tuple[int, ...]]:
    """Return which tensors make a record: small ones of one data type together, others alone."""
    groups: list[tuple[int, ...]] = []
    together: dict[str, list[int]] = {}
    sizes: dict[str, int] = {}
    for i, info in enumerate(infos):
        if info.elements >= SMALL or info.name in blocks or _quantised(info, quantise):
            groups.append((i,))
            continue
        kind = info.kind.name
        if sizes.get(kind, 0) + info.elements > TOGETHER:
            groups.append(tuple(together.pop(kind)))
            sizes[kind] = 0
        together.setdefault(kind, []).append(i)
        sizes[kind] = sizes.get(kind, 0) + info.elements
    return groups + [tuple(group) for group in together.values()]


def _quantised(info: TensorInfo, quantise: Quantise | None) -> bool:
    """Whether it is a weight that gets smaller: floating-point, of two dimensions or more, of more bits."""
    if quantise is None or len(info.shape) < 2 or not info.elements or not info.kind.signed:
        return False
    if info.kind.width * 8 <= quantise.bits:
        return False
    return not any(fnmatchcase(info.name, pattern) for pattern in quantise.exclude)


def _check_names(names: Sequence[str]) -> None:
    if len(names) > MAX_TENSORS:
        raise ArtefactError(f"{len(names)} tensors are more than the {MAX_TENSORS} of a packed file")
    for name in names:
        if not isinstance(name, str) or len(name) > MAX_NAME:
            raise ArtefactError(f"{name!r:.60} is no name of at most {MAX_NAME} characters")


def _check_blocks(infos: Sequence[TensorInfo], blocks: Mapping[str, Blocks]) -> None:
    known = {info.name: info for info in infos}
    for name, layout in blocks.items():
        if name not in known:
            raise ArtefactError(f"blocks names {name!r}, which is no tensor.{did_you_mean(name, known)}")
        check_layout(layout, known[name], f"blocks[{name!r}]")


def _beginning(header: Header, effort: Effort) -> tuple[bytes, bytes]:
    text = header_to_json(header)
    stored = compress(text, effort.text)
    if len(text) > MAX_HEADER:
        raise ArtefactError(f"the header would have {len(text)} bytes, more than {MAX_HEADER}")
    prefix = PREFIX.pack(MAGIC, VERSION, len(stored), len(text), b"")[:-32]
    return prefix + header_digest(prefix, stored), stored


def write_file(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file that appears whole or not at all.

    Raises:
        ArtefactError: the path is a folder.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise ArtefactError(f"{path} is a folder: choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with fresh.open("wb", buffering=BUFFER) as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
