"""Packing models, tensors and artefacts into one file, and unpacking them again; what that gained, as a table."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from secateur.ground.errors import ArtefactError, printable
from secateur.ground.files import write_whole
from secateur.ground.models import HasModel, module_of
from secateur.surgery.plan_json import plan_from_json, plan_to_json

from .files import parse_json, replacing, write
from .load import read_tensors, read_whole
from .manifest import MODEL, PLAN, RECIPE, REPORT, Manifest
from .packed import Blocks, PackedFile, Quantise, write_packed
from .packed.header import Record, Records
from .packed.words import TEXT

__all__ = ["Packed", "PackedTensor", "describe", "pack", "unpack_to"]

TEXTS = (PLAN, RECIPE, REPORT)


@dataclass(frozen=True)
class PackedTensor:
    """How one tensor is stored; small ones that share a record share its bytes. Exact ones have no errors."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    coding: str
    dense_bytes: int
    bytes: float
    bits: int | None
    relative_error: float | None
    max_error: float | None


@dataclass(frozen=True)
class Packed:
    """What a packed file holds and takes; printed as a table."""

    path: Path
    tensors: tuple[PackedTensor, ...]
    dense_bytes: int
    bytes: int  # of the file

    @property
    def ratio(self) -> float:
        """The dense tensors over the file."""
        return self.dense_bytes / self.bytes

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        tensors = [asdict(t) | {"shape": list(t.shape), "bytes": round(t.bytes)} for t in self.tensors]
        return asdict(self) | {"path": str(self.path), "ratio": self.ratio, "tensors": tensors}

    def __str__(self) -> str:
        rows = [("tensor", "shape", "how", "dense", "packed", "ratio", "rel. error")]
        for t in self.tensors:
            error = "exact" if t.relative_error is None else f"{t.relative_error:.2g}"
            shape = "x".join(map(str, t.shape)) or "-"
            ratio = f"{t.dense_bytes / t.bytes:.1f}" if t.bytes else "-"
            rows.append(
                (printable(t.name), shape, t.coding, f"{t.dense_bytes:,}", f"{t.bytes:,.0f}", ratio, error)
            )
        rows.append(("file", "", "", f"{self.dense_bytes:,}", f"{self.bytes:,}", f"{self.ratio:.1f}", ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        aligned = [
            [c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))] for row in rows
        ]
        return "\n".join("  ".join(row).rstrip() for row in aligned)


def pack(
    source: nn.Module | Mapping[str, Tensor] | str | PathLike[str],
    path: str | PathLike[str],
    *,
    quantise: Quantise | None = None,
    blocks: Mapping[str, Blocks] | None = None,
) -> Packed:
    """Write a model, its tensors, an artefact or a safetensors file as one small file; return what that gained.

    Zeros, zero blocks and unified blocks are found in the values, whatever made them, and tied tensors are stored once.
    What comes back is equal bit by bit, unless ``quantise`` says otherwise. ``blocks`` names structure that is known
    and need not be looked for. An artefact is checked as `secateur.load` does, which reads the packed one as well.

    Raises:
        ArtefactError: the source is none of these, or damaged; a tensor cannot be stored; or nothing can be written.

    >>> import tempfile, torch
    >>> import secateur as sc
    >>> weight = torch.randn(64, 64) * (torch.rand(8, 64) < 0.25).repeat_interleave(8, 0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     packed = sc.pack({"weight": weight}, f"{folder}/net.sec")
    ...     same = torch.equal(sc.unpack(packed.path)["weight"], weight)
    >>> packed.tensors[0].coding, packed.ratio > 3, same
    ('8x1 blocks', True, True)
    """
    tensors: Mapping[str, Tensor]
    texts: Mapping[str, str] = {}
    if isinstance(source, nn.Module | HasModel):
        tensors = module_of(source).state_dict()
    elif isinstance(source, Mapping):
        tensors = source
    elif Path(source).is_file():
        tensors = read_tensors(Path(source))
    else:
        artefact, texts = read_whole(Path(source))
        tensors = artefact.tensors
    return _described(Path(path), write_packed(path, tensors, texts=texts, quantise=quantise, blocks=blocks))


def describe(path: str | PathLike[str]) -> Packed:
    """Return what a packed file holds, without reading the tensors.

    Raises:
        ArtefactError: as `PackedFile`.
    """
    with PackedFile(path, limit=sys.maxsize) as file:  # nothing but the header is read
        return _described(file.path, file.records)


def unpack_to(path: str | PathLike[str], target: str | PathLike[str], *, limit: int | None = None) -> Path:
    """Write a packed artefact as a folder again, or packed tensors as a safetensors file; return its path.

    Raises:
        ArtefactError: as `unpack`, or in the target's place is something else, which is not overwritten.
    """
    target = Path(target)
    with PackedFile(path, limit) as file:
        tensors = file.all()
        texts = {name: file.text(name) for name in file.texts}
    # Names of one tensor get copies of their own: that format has no others.
    data = safetensors.torch.save({name: tensor.clone() for name, tensor in tensors.items()})
    if PLAN not in texts:
        write_whole(Path(target), [data], ArtefactError)
        return target
    manifest, plan = Manifest.from_json(parse_json(texts[PLAN], PLAN))
    checked = plan_to_json(plan_from_json(plan, {}))
    manifest = replace(manifest, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    texts[PLAN] = json.dumps(manifest.to_json(checked), separators=(",", ":"), allow_nan=False)
    with replacing(target) as fresh:
        write(fresh / MODEL, data)
        for name in TEXTS:
            if name not in texts:
                raise ArtefactError(f"{path} is incomplete: it has no {name}")
            write(fresh / name, texts[name].encode())
    return target


def _described(path: Path, records: Records) -> Packed:
    tensors = []
    for record in records:
        sizes, width = [prod(shape) for _, shape in record.tensors], record.kind.dtype.itemsize
        total, stored, lost, coding = sum(sizes), record.size, record.quantised, _coding(record)
        if record.kind is TEXT:
            continue
        losses = (None, None, None) if lost is None else (lost.bits, lost.relative_error, lost.max_error)
        for (names, shape), size in zip(record.tensors, sizes, strict=True):
            share = size / total if total else 1 / len(sizes)
            dense, packed = size * width, stored * share
            tensors.append(PackedTensor(names[0], record.type, shape, coding, dense, packed, *losses))
    return Packed(path, tuple(tensors), sum(t.dense_bytes for t in tensors), path.stat().st_size)


def _coding(record: Record) -> str:
    if record.blocks is None:
        text = "dense"
    elif record.blocks.size == 1:
        text = "sparse"
    else:
        text = f"{record.blocks.rows}x{record.blocks.columns} blocks" + (
            ", unified" if record.magnitudes else ""
        )
    text += f", {record.quantised.bits} bit" if record.quantised else ""
    return text + (f", {len(record.tensors)} together" if len(record.tensors) > 1 else "")
