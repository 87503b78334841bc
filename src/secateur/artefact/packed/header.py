"""What stands at the beginning of a packed file, checked entry by entry before anything is allocated."""

from __future__ import annotations

from itertools import chain
from math import prod
from typing import Annotated

from pydantic import ConfigDict, FailFast, Field, StrictInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from secateur.ground.errors import ArtefactError

from .blocks import Blocks
from .streams import DIGEST, MAX_BYTES, Planes, Size
from .words import KINDS, TEXT, Kind

__all__ = ["PARSED", "Quantised", "Record", "Records", "checked", "memory", "to_json"]

MAX_NAMES = 1 << 16
PARSED = 40  # bytes of memory that a byte of JSON or YAML may take when it is read, about

CONFIG = ConfigDict(extra="forbid")
Name = Annotated[str, Field(max_length=1024)]
Names = Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_NAMES), FailFast()]
Shape = Annotated[tuple[Size, ...], Field(max_length=16), FailFast()]
Tensors = Annotated[tuple[tuple[Names, Shape], ...], Field(min_length=1, max_length=MAX_NAMES), FailFast()]
Loss = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=CONFIG)
class Quantised:
    """How values were rounded (to float16, or integers times a scale of ``rows`` first indices), and what that cost."""

    bits: StrictInt
    relative_error: Loss  # Euclidean norm of the differences over that of the values, four digits
    max_error: Loss
    rows: Annotated[int, Field(strict=True, ge=1)] = 1
    scales: Planes | None = None


@dataclass(frozen=True, config=CONFIG)
class Record:
    """What is stored, checked and read as one: a tensor, or several small ones of one type behind each other.

    ``tensors`` have all of their names, and a shape; a text is a tensor of bytes. The rest says how many bytes each
    stream has: those of scales, `nonzero`, `negative`, `unified`, `signs`, `magnitudes` and `values`, in this order.
    """

    type: Annotated[str, Field(pattern="^(" + "|".join(KINDS) + ")$")]
    tensors: Tensors
    digest: Annotated[str, Field(pattern=f"^[0-9a-f]{{{DIGEST}}}$")]
    values: Planes
    blocks: Blocks | None = None
    nonzero: Size = 0
    negative: Size = 0
    unified: Size = 0
    signs: Size = 0
    magnitudes: Planes | None = None
    quantised: Quantised | None = None

    @property
    def kind(self) -> Kind:
        """The type of its tensors."""
        return KINDS[self.type]

    @property
    def size(self) -> int:
        """Stored bytes."""
        planes = (self.values, self.magnitudes, self.quantised and self.quantised.scales)
        bits = self.nonzero + self.negative + self.unified + self.signs
        return bits + sum(sum(p.sizes) for p in planes if p)

    @property
    def elements(self) -> int:
        """How many its tensors have together."""
        return sum(map(prod, (shape for _, shape in self.tensors)))


Records = Annotated[tuple[Record, ...], Field(max_length=MAX_NAMES), FailFast()]
_RECORDS: TypeAdapter[Records] = TypeAdapter(Records)


def memory(records: Records) -> int:
    """Return the bytes of memory that reading everything takes at most: texts are parsed, one record is in work."""
    total = work = 0
    for record in records:
        kind, elements = record.kind, record.elements
        total += elements * (PARSED if kind is TEXT else kind.dtype.itemsize)
        work = max(work, elements * kind.words * (4 * kind.width + 36))
    return total + work


def to_json(records: Records) -> bytes:
    """Return the text of a header."""
    return _RECORDS.dump_json(records, exclude_defaults=True)


def checked(data: object) -> Records:
    """Return the records of plain data, checked one by one and against each other; else an `ArtefactError`."""
    try:
        records = _RECORDS.validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtefactError(f"the header's record {where}: {first['msg']}") from None
    names = list(chain.from_iterable(of for record in records for of, _ in record.tensors))
    if len(names) > MAX_NAMES or len(set(names)) < len(names):
        raise ArtefactError(f"two tensors have one name, or they have more than {MAX_NAMES} names")
    for record in records:
        _check(record, *record.tensors[0])
    every = ((record.kind.dtype.itemsize, *shape) for record in records for _, shape in record.tensors)
    # Empty ones as well: their other dimensions are multiplied somewhere.
    total = sum(prod(max(1, n) for n in sizes) for sizes in every)
    if total > MAX_BYTES:
        raise ArtefactError(f"the tensors have more than {MAX_BYTES} bytes")
    return records


def _check(record: Record, names: tuple[str, ...], shape: tuple[int, ...]) -> None:
    kind, quantised, name = record.kind, record.quantised, repr(names[0])
    if (record.blocks or quantised) and len(record.tensors) > 1:
        raise ArtefactError(f"{name} has blocks or is quantised, but shares its record")
    if record.blocks and not record.blocks.fit(kind.word_shape(shape)):
        raise ArtefactError(f"{record.blocks} do not fit {name}, whose shape is {shape}")
    if quantised and not (kind.signed and shape and 0 not in shape and quantised.rows <= shape[0]):
        raise ArtefactError(f"{name} cannot be quantised so: it is {record.type} of shape {shape}")
    if quantised and {4: True, 8: True, 16: False}.get(quantised.bits) != (quantised.scales is not None):
        raise ArtefactError(f"{name} is quantised to {quantised.bits} bits, but its scales do not fit")
