"""Packing models, tensors and artefacts into one file, and what that gained."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from secateur.ground.errors import ArtefactError
from secateur.surgery.plan_json import plan_from_json, plan_to_json

from ..files import find, parse_json, read_text, regular_file, replacing, write
from ..manifest import MODEL, PLAN, RECIPE, REPORT, Manifest
from .blocks import Blocks
from .header import Header, Quantised, Record
from .quantise import Quantise
from .read import PackedFile
from .streams import Role
from .write import write_file, write_packed

__all__ = ["Packed", "PackedTensor", "describe", "pack", "unpack_to"]

TEXTS = (PLAN, RECIPE, REPORT)


@dataclass(frozen=True)
class PackedTensor:
    """How one tensor is stored; small ones that share a record share its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    coding: str
    dense_bytes: int
    bytes: float
    quantised: Quantised | None


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
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "dense_bytes": self.dense_bytes,
            "ratio": self.ratio,
            "tensors": [
                {
                    "name": t.name,
                    "dtype": t.dtype,
                    "shape": list(t.shape),
                    "coding": t.coding,
                    "dense_bytes": t.dense_bytes,
                    "bytes": round(t.bytes),
                    "bits": None if t.quantised is None else t.quantised.bits,
                    "relative_error": None if t.quantised is None else t.quantised.relative_error,
                    "max_error": None if t.quantised is None else t.quantised.max_error,
                }
                for t in self.tensors
            ],
        }

    def __str__(self) -> str:
        rows = [("tensor", "shape", "how", "dense", "packed", "ratio", "rel. error")]
        for t in self.tensors:
            error = "exact" if t.quantised is None else f"{t.quantised.relative_error:.2g}"
            shape = "x".join(map(str, t.shape)) or "-"
            ratio = f"{t.dense_bytes / t.bytes:.1f}" if t.bytes else "-"
            rows.append((t.name, shape, t.coding, f"{t.dense_bytes:,}", f"{t.bytes:,.0f}", ratio, error))
        rows.append(("file", "", "", f"{self.dense_bytes:,}", f"{self.bytes:,}", f"{self.ratio:.1f}", ""))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join(lines)


def pack(
    source: nn.Module | Mapping[str, Tensor] | str | PathLike[str],
    path: str | PathLike[str],
    *,
    quantise: Quantise | None = None,
    blocks: Mapping[str, Blocks] | None = None,
    smallest: bool = False,
) -> Packed:
    """Write a model, its tensors, an artefact or a safetensors file as one small file; return what that gained.

    Zeros, zero blocks and unified blocks are found in the values, whatever made them, and each tensor is stored in
    the form that takes least: what comes back is equal bit by bit, unless ``quantise`` says otherwise. ``blocks``
    names structure that is known and need not be looked for. With ``smallest`` more is tried, some ten times slower.
    A packed artefact is one for `secateur.load`.

    Raises:
        ArtefactError: the source is neither of these, or a tensor cannot be stored.

    >>> import tempfile, torch
    >>> import secateur as sc
    >>> weight = torch.randn(64, 64) * (torch.rand(8, 64) < 0.25).repeat_interleave(8, 0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     packed = sc.pack({"weight": weight}, f"{folder}/net.sec")
    ...     same = torch.equal(sc.unpack(packed.path)["weight"], weight)
    >>> packed.tensors[0].coding[:10], packed.ratio > 3, same
    ('8x1 blocks', True, True)
    """
    path = Path(path)
    tied: dict[str, str] = {}
    documents: dict[str, bytes] = {}
    if isinstance(source, nn.Module):
        tensors, tied = _state(source)
    elif isinstance(source, Mapping):
        tensors = dict(source)
        for name, value in tensors.items():
            if not isinstance(value, Tensor):
                raise ArtefactError(f"{name!r:.60} is a {type(value).__name__}; only tensors can be packed")
    elif Path(source).is_file():
        tensors = _safetensors(Path(source))
    else:
        tensors, documents = _artefact(find(Path(source)))
    header = write_packed(
        path, tensors, tied=tied, documents=documents, quantise=quantise, blocks=blocks, smallest=smallest
    )
    return _described(path, header)


def describe(path: str | PathLike[str]) -> Packed:
    """Return what a packed file holds, without reading the tensors.

    Raises:
        ArtefactError: as `PackedFile`.
    """
    with PackedFile(path, limit=sys.maxsize) as file:  # no tensor is read
        return _described(file.path, file.header)


def _described(path: Path, header: Header) -> Packed:
    found: dict[int, PackedTensor] = {}
    for record in header.records:
        infos = [header.tensors[i] for i in record.tensors]
        total, coding = sum(info.bytes for info in infos), _coding(record)
        for i, info in zip(record.tensors, infos, strict=True):
            share = info.bytes / total if total else 1 / len(infos)
            found[i] = PackedTensor(
                info.name,
                info.kind.name,
                info.shape,
                coding,
                info.bytes,
                record.size * share,
                record.quantised,
            )
    tensors = tuple(found[i] for i in range(len(found)))
    return Packed(path, tensors, sum(t.dense_bytes for t in tensors), path.stat().st_size)


def unpack_to(path: str | PathLike[str], target: str | PathLike[str], *, limit: int | None = None) -> Path:
    """Write a packed artefact as a folder again, or packed tensors as a safetensors file; return its path.

    Raises:
        ArtefactError: as `unpack`, or in the target's place is something else, which is not overwritten.
    """
    target = Path(target)
    with PackedFile(path, limit) as file:
        tensors = file.all()
        texts = {name: file.text(name) for name in file.documents}
    # Names of one tensor get copies of their own: that format has no others.
    data = safetensors.torch.save({name: tensor.clone() for name, tensor in tensors.items()})
    if PLAN not in texts:
        write_file(target, [data])
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


def _state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ArtefactError(
                f"the state {name} is a {type(value).__name__}; only tensors can be packed without pickle"
            )
        # The state dict makes new tensor objects, but shared parameters keep their memory.
        memory = (value.data_ptr() or name, value.shape, value.stride(), value.dtype)
        if memory in first:
            tied[name] = first[memory]
        else:
            first[memory] = name
            tensors[name] = value
    return tensors, tied


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (SafetensorError, KeyError) as error:  # KeyError: a data type that torch does not have
        raise ArtefactError(f"{path} is not a safetensors file that can be read: {error}") from None
    return tensors


def _artefact(folder: Path) -> tuple[dict[str, Tensor], dict[str, bytes]]:
    return _safetensors(regular_file(folder, MODEL)), {
        name: read_text(folder, name).encode() for name in TEXTS
    }


def _coding(record: Record) -> str:
    roles = {part.role for part in record.parts}
    if record.layout is None:
        text = "dense"
    elif record.layout.size == 1:
        text = "sparse"
    else:
        text = "x".join(map(str, record.layout.block)) + " blocks"
        text += ", unified" if Role.UNIFIED in roles else ""
    if record.quantised is not None:
        text += f", {record.quantised.bits} bit"
    if any(part.coder == "range" for part in record.parts):
        text += ", range"
    return text + (f", {len(record.tensors)} together" if len(record.tensors) > 1 else "")
