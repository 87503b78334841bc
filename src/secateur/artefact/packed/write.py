"""Writing a packed file."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from torch import Tensor

from secateur.ground.errors import ArtefactError, did_you_mean
from secateur.ground.files import write_whole
from secateur.ground.progress import track
from secateur.ground.tensors import identity

from .blocks import Blocks
from .coding import encode
from .header import Records, checked, to_json
from .quantise import Quantise, exact
from .read import MAGIC, PREFIX, VERSION
from .streams import Writer
from .words import TEXT, Kind, kind_of

__all__ = ["sealed", "write_packed"]

SMALL = 1024  # elements: tensors of fewer share a record with others of their kind
TOGETHER = 1 << 16  # elements of such a record, at most
LEVEL = 9  # zstandard's, of header and texts

Group = dict[tuple[str, ...], Tensor]  # by all of their names


def write_packed(
    path: str | PathLike[str],
    tensors: Mapping[str, Tensor],
    *,
    texts: Mapping[str, str] | None = None,
    quantise: Quantise | None = None,
    blocks: Mapping[str, Blocks] | None = None,
) -> Records:
    """Write tensors and texts to a file, which appears whole or not at all, and return its records; ties are kept.

    Raises:
        ArtefactError: a tensor cannot be stored, there are too many, or the file cannot be written.
    """
    kinds, blocks = {name: kind_of(tensor, name) for name, tensor in tensors.items()}, blocks or {}
    for name, layout in blocks.items():
        if name not in tensors:
            raise ArtefactError(f"blocks names {name!r}, which is no tensor.{did_you_mean(name, tensors)}")
        if not layout.fit(kinds[name].word_shape(tuple(tensors[name].shape))):
            raise ArtefactError(f"{layout} do not fit {name!r}, whose shape is {tuple(tensors[name].shape)}")
    rounded = {name for name in tensors if quantise and _taken(quantise, name, tensors[name], kinds[name])}
    # Layers that are quantised already (`secateur.surgery.QuantiseLayer`) are stored as integers, and nothing is lost.
    scales = {n: tensors.get(f"{n}_scales") for n in tensors if str(n).rpartition(".")[2] == "weight"}
    codes = {n: found for n, s in scales.items() if s is not None and (found := exact(tensors[n], s))}
    out, text_out = Writer(), Writer(LEVEL)
    work = [
        (kinds[next(iter(group))[0]], group, out) for group in _groups(tensors, {*blocks, *rounded, *codes})
    ]
    for name, text in (texts or {}).items():
        data = torch.from_numpy(np.frombuffer(text.encode(), np.uint8).copy())
        work.append((TEXT, {(name,): data}, text_out))
    records: list[dict[str, Any]] = []
    stored: list[bytes | memoryview] = []
    for kind, group, to in track(work, "packing"):
        names = next(iter(group))
        wanted = quantise if rounded.issuperset(names) else None
        known = next((blocks[name] for name in names if name in blocks), None)
        integers = next((codes[name] for name in names if name in codes), None)
        fields = encode(list(group.values()), kind, to, wanted, known, integers)
        digest, streams = to.take()
        named = [(names, tuple(tensor.shape)) for names, tensor in group.items()]
        records.append(fields | {"type": kind.name, "tensors": named, "digest": digest})
        stored += streams
    header = checked(records)
    write_whole(Path(path), [sealed(to_json(header)), *stored], ArtefactError)
    return header


def sealed(text: bytes) -> bytes:
    """Return the beginning of a file, up to the records, from the text of its header."""
    frame = zstandard.ZstdCompressor(level=LEVEL).compress(text)
    prefix = PREFIX.pack(MAGIC, VERSION, len(frame), len(text), b"")[:-32]
    return prefix + hashlib.sha256(prefix + frame).digest() + frame


def _groups(tensors: Mapping[str, Tensor], alone: Set[str]) -> Iterator[Group]:
    """Yield the tensors of each record, tied ones once: one, or small ones of one kind, but none of those `alone`."""
    tied: dict[Any, list[str]] = defaultdict(list)
    for name, tensor in tensors.items():
        tied[identity(tensor), tensor.is_conj(), tensor.is_neg()].append(name)
    joined: dict[torch.dtype, Group] = defaultdict(dict)
    room: dict[torch.dtype, int] = defaultdict(lambda: TOGETHER)
    for names in tied.values():
        tensor = tensors[names[0]]
        if tensor.numel() >= SMALL or not alone.isdisjoint(names):
            yield {tuple(names): tensor}
            continue
        if room[tensor.dtype] < tensor.numel():
            yield joined.pop(tensor.dtype)
            del room[tensor.dtype]
        joined[tensor.dtype][tuple(names)] = tensor
        room[tensor.dtype] -= tensor.numel()
    yield from joined.values()


def _taken(quantise: Quantise, name: str, tensor: Tensor, kind: Kind) -> bool:
    """Whether it is a weight that gets smaller: floating-point, of two dimensions or more, of more bits."""
    weight = kind.signed and tensor.ndim > 1 and tensor.numel() > 0 and 8 * kind.width > quantise.bits
    return weight and not any(fnmatchcase(name, pattern) for pattern in quantise.exclude)
