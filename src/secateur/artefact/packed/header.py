"""What stands at the beginning of a packed file, checked entry by entry before anything is allocated."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, prod
from typing import Any, TypeVar

from secateur.ground.errors import ArtefactError, did_you_mean

from ..files import parse_json
from .blocks import Blocks
from .coders import Coder
from .streams import Part, Role
from .words import KINDS, Kind

__all__ = [
    "DIGEST",
    "MAX_HEADER",
    "Document",
    "Header",
    "Quantised",
    "Record",
    "TensorInfo",
    "check_layout",
    "header_from_json",
    "header_to_json",
]

MAX_HEADER = 1 << 24  # bytes of JSON
MAX_VALUES = 1 << 21  # commas and brackets in it: objects take far more memory than their text
MAX_TENSORS = 1 << 16
MAX_NAME = 1024
MAX_DIMS = 16
MAX_BYTES = 1 << 42  # of a tensor, and of all together
MAX_PARTS = 40
MAX_BLOCK = 1 << 16  # elements
MAX_DOCUMENTS = 16
MAX_DOCUMENT = 1 << 26
DIGEST = 16  # bytes of BLAKE2b of each record and document

T = TypeVar("T")


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as it is given back."""

    name: str
    kind: Kind
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many there are."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Its size in memory."""
        return self.elements * self.kind.width * self.kind.words

    @property
    def word_shape(self) -> tuple[int, ...]:
        """The shape of its words: one more dimension where an element has several."""
        return (*self.shape, *((self.kind.words,) if self.kind.words > 1 else ()))


@dataclass(frozen=True)
class Quantised:
    """How the values of a tensor were rounded, and what that cost.

    With 16 bits values are float16. With fewer they are integers times one scale for each ``rows`` indices of the
    first dimension.
    """

    bits: int
    rows: int
    relative_error: float  # Euclidean norm of the differences over that of the values
    max_error: float


@dataclass(frozen=True)
class Record:
    """What is stored, checked and read as one: a tensor, or several small ones of one data type behind each other."""

    tensors: tuple[int, ...]  # places in the list of tensors
    layout: Blocks | None
    quantised: Quantised | None
    parts: tuple[Part, ...]
    digest: bytes

    @property
    def size(self) -> int:
        """Stored bytes."""
        return sum(part.size for part in self.parts)


@dataclass(frozen=True)
class Document:
    """A text, compressed."""

    name: str
    length: int  # of the text, in bytes
    size: int  # stored
    digest: bytes


@dataclass(frozen=True)
class Header:
    """The content of a packed file; records and documents follow it in this order, without gaps."""

    tensors: tuple[TensorInfo, ...]
    records: tuple[Record, ...]
    tied: Mapping[str, str] = field(default_factory=dict)  # further names of tensors
    documents: tuple[Document, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that follow the header."""
        return sum(record.size for record in self.records) + sum(document.size for document in self.documents)


def header_to_json(header: Header) -> bytes:
    """Return the text of a header."""
    data = {
        "tensors": [[t.name, t.kind.name, list(t.shape)] for t in header.tensors],
        "records": [_record_to_json(record) for record in header.records],
        "tied": dict(header.tied),
        "documents": [[d.name, d.length, d.size, d.digest.hex()] for d in header.documents],
    }
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


def header_from_json(text: bytes) -> Header:
    """Return the header, checked.

    Raises:
        ArtefactError: it is not one; the message names the entry.
    """
    if len(text) > MAX_HEADER or sum(map(text.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise ArtefactError("the header is longer than any that secateur writes")
    try:
        data = parse_json(text.decode(), "the header")
    except UnicodeDecodeError as error:
        raise ArtefactError(f"the header is not UTF-8 text: {error}") from None
    entries = _keys(data, "header", ("tensors", "records", "tied", "documents"))
    tensors = _list(entries["tensors"], "tensors", _tensor, MAX_TENSORS)
    names = {tensor.name for tensor in tensors}
    if len(names) < len(tensors):
        raise ArtefactError("two tensors of the header have one name")
    if sum(tensor.bytes for tensor in tensors) > MAX_BYTES:
        raise ArtefactError(f"the header declares more than {MAX_BYTES} bytes")
    records = _list(
        entries["records"], "records", lambda entry, where: _record(entry, where, tensors), MAX_TENSORS
    )
    if sorted(i for record in records for i in record.tensors) != list(range(len(tensors))):
        raise ArtefactError("the header does not give each tensor exactly one record")
    tied = _mapping(entries["tied"], "tied")
    if len(tied) > MAX_TENSORS:
        raise ArtefactError("the header has more tied names than tensors may be")
    for name, target in tied.items():
        _name(name, "a name in tied")
        if name in names or not isinstance(target, str) or target not in names:
            raise ArtefactError(f"tied[{name!r:.60}] does not lead from a new name to a tensor")
    documents = _list(entries["documents"], "documents", _document, MAX_DOCUMENTS)
    if len({document.name for document in documents}) < len(documents):
        raise ArtefactError("two documents of the header have one name")
    return Header(tensors, records, dict(tied), documents)


def _record_to_json(record: Record) -> dict[str, Any]:
    data: dict[str, Any] = {
        "tensors": list(record.tensors),
        "parts": [[part.role, part.coder, part.size] for part in record.parts],
        "digest": record.digest.hex(),
    }
    if record.layout is not None:
        data["axes"] = [list(dims) for dims in record.layout.axes]
        data["block"] = list(record.layout.block)
    if (q := record.quantised) is not None:
        data["quantised"] = [q.bits, q.rows, q.relative_error, q.max_error]
    return data


def _record(data: object, where: str, tensors: Sequence[TensorInfo]) -> Record:
    entries = _keys(data, where, ("tensors", "parts", "digest"), ("axes", "block", "quantised"))
    of = _list(
        entries["tensors"],
        f"{where}.tensors",
        lambda e, at: _integer(e, at, 0, len(tensors) - 1),
        MAX_TENSORS,
    )
    if not of:
        raise ArtefactError(f"{where} has no tensor")
    kinds = {tensors[i].kind.name for i in of}
    if len(kinds) > 1:
        raise ArtefactError(f"{where} has tensors of several data types")
    layout = _layout(entries, where, tensors[of[0]]) if {"axes", "block"} & set(entries) else None
    quantised = None
    if "quantised" in entries:
        quantised = _quantised(entries["quantised"], f"{where}.quantised", tensors[of[0]])
    if len(of) > 1 and (layout or quantised):
        raise ArtefactError(f"{where} has several tensors, which have no blocks and are not quantised")
    parts = _list(entries["parts"], f"{where}.parts", _part, MAX_PARTS)
    return Record(of, layout, quantised, parts, _digest(entries["digest"], f"{where}.digest"))


def _layout(entries: Mapping[str, Any], where: str, tensor: TensorInfo) -> Blocks:
    for key in ("axes", "block"):
        if key not in entries:
            raise ArtefactError(f"{where} has no entry {key!r}")
    axes = _list(
        entries["axes"],
        f"{where}.axes",
        lambda dims, at: _list(dims, at, lambda dim, here: _integer(dim, here, 0, MAX_DIMS), MAX_DIMS + 1),
        MAX_DIMS + 1,
    )
    block = _list(
        entries["block"], f"{where}.block", lambda n, at: _integer(n, at, 1, MAX_BLOCK), MAX_DIMS + 1
    )
    layout = Blocks(axes, block)
    check_layout(layout, tensor, where)
    return layout


def check_layout(layout: Blocks, tensor: TensorInfo, where: str) -> None:
    """Check that blocks fit a tensor.

    Raises:
        ArtefactError: they do not.
    """
    shape = tensor.word_shape
    if sorted(dim for dims in layout.axes for dim in dims) != list(range(len(shape))):
        raise ArtefactError(
            f"{where}.axes does not have each of the {len(shape)} dimensions of {tensor.name} once"
        )
    if len(layout.block) != len(layout.axes) or not 1 <= layout.size <= MAX_BLOCK:
        raise ArtefactError(
            f"{where}.block has not one size for each axis, or more than {MAX_BLOCK} elements"
        )
    view = layout.view(shape)
    if any(not 1 <= step <= max(1, size) for step, size in zip(layout.block, view, strict=True)):
        raise ArtefactError(f"{where}.block is larger than {tensor.name}, which is {view} in this view")


def _quantised(data: object, where: str, tensor: TensorInfo) -> Quantised:
    if not tensor.kind.signed or not tensor.elements or not tensor.shape:
        raise ArtefactError(f"{where}: only floating-point tensors with dimensions and values are")
    if not isinstance(data, list) or len(data) != 4:
        raise ArtefactError(f"{where} must be four numbers")
    bits, rows = _integer(data[0], where, 4, 16), _integer(data[1], where, 1, tensor.shape[0])
    errors = data[2:]
    if bits not in (4, 8, 16):
        raise ArtefactError(f"{where}: values of {bits} bits are not known")
    if not all(type(e) in (int, float) and isfinite(e) and e >= 0 for e in errors):
        raise ArtefactError(f"{where}: errors must be numbers of at least 0")
    return Quantised(bits, rows, float(errors[0]), float(errors[1]))


def _tensor(data: object, where: str) -> TensorInfo:
    if not isinstance(data, list) or len(data) != 3:
        raise ArtefactError(f"{where} must be a name, a data type and a shape")
    kind = KINDS.get(data[1]) if isinstance(data[1], str) else None
    if kind is None:
        raise ArtefactError(f"{where} has an unknown data type {data[1]!r:.40}")
    shape = _list(data[2], f"{where}.shape", lambda n, at: _integer(n, at, 0, MAX_BYTES), MAX_DIMS)
    # Empty tensors too: their other dimensions are multiplied somewhere.
    if prod(max(1, n) for n in shape) * kind.width * kind.words > MAX_BYTES:
        raise ArtefactError(f"{where} declares more than {MAX_BYTES} bytes")
    return TensorInfo(_name(data[0], where, least=0), kind, shape)


def _part(data: object, where: str) -> Part:
    if not isinstance(data, list) or len(data) != 3 or not all(isinstance(e, str) for e in data[:2]):
        raise ArtefactError(f"{where} must be a role, a coder and a number of bytes")
    try:
        return Part(Role(data[0]), Coder(data[1]), _integer(data[2], where, 0, MAX_BYTES))
    except ValueError as error:
        raise ArtefactError(f"{where}: {str(error)[:80]}") from None


def _document(data: object, where: str) -> Document:
    if not isinstance(data, list) or len(data) != 4:
        raise ArtefactError(f"{where} must be a name, two numbers of bytes and a digest")
    return Document(
        _name(data[0], where),
        _integer(data[1], where, 0, MAX_DOCUMENT),
        _integer(data[2], where, 0, MAX_DOCUMENT),
        _digest(data[3], where),
    )


def _digest(data: object, where: str) -> bytes:
    if not isinstance(data, str) or len(data) != 2 * DIGEST or not set(data) <= set("0123456789abcdef"):
        raise ArtefactError(f"{where} must be {2 * DIGEST} hexadecimal digits")
    return bytes.fromhex(data)


def _name(data: object, where: str, least: int = 1) -> str:
    if not isinstance(data, str) or not least <= len(data) <= MAX_NAME:
        raise ArtefactError(f"{where}: a name has {least} to {MAX_NAME} characters")
    return data


def _integer(data: object, where: str, low: int, high: int) -> int:
    if not isinstance(data, int) or isinstance(data, bool) or not low <= data <= high:
        raise ArtefactError(f"{where} must be an integer from {low} to {high}, not {data!r:.40}")
    return data


def _list(data: object, where: str, read: Callable[[Any, str], T], most: int) -> tuple[T, ...]:
    if not isinstance(data, list) or len(data) > most:
        raise ArtefactError(f"{where} must be a list of at most {most} entries")
    return tuple(read(entry, f"{where}[{i}]") for i, entry in enumerate(data))


def _mapping(data: object, where: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise ArtefactError(f"{where} must be an object")
    return data


def _keys(data: object, where: str, needed: Sequence[str], allowed: Sequence[str] = ()) -> Mapping[str, Any]:
    entries = _mapping(data, where)
    for name in needed:
        if name not in entries:
            raise ArtefactError(f"{where} has no entry {name!r}")
    for name in entries:
        if name not in needed and name not in allowed:
            known = (*needed, *allowed)
            raise ArtefactError(f"{where} has an unknown entry {name!r:.60}.{did_you_mean(name, known)}")
    return entries
