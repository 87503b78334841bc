"""Tensors to records and back: exact or quantised words, whose blocks are zero, of one magnitude, or kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.ground.errors import ArtefactError

from .blocks import Blocks, detect, entropy
from .header import Quantised, Record
from .quantise import CODE, Floats, Quantise, dequantise, quantise
from .streams import Reader, Writer
from .words import Kind, Words, rotate, to_tensor, to_words

__all__ = ["Nonzero", "decode", "decode_nonzero", "encode"]

Fields = dict[str, Any]  # of a `Record`
Chosen = NDArray[np.bool_]
HALF, SCALE = np.dtype("<u2"), np.dtype("<u4")
STATES = 400  # bits that unified blocks must save beyond their states: the header lists more streams


@dataclass(frozen=True)
class Nonzero:
    """The elements of those blocks of a weight that are not zero: places in the flattened weight, and values."""

    blocks: Blocks
    shape: tuple[int, ...]
    places: NDArray[np.signedinteger[Any]]
    values: NDArray[np.float32]


def encode(
    tensors: Sequence[Tensor], kind: Kind, out: Writer, wanted: Quantise | None, blocks: Blocks | None,
    rounded: tuple[Words, Floats | None, Quantised] | None = None,
) -> Fields:  # fmt: skip
    """Write a tensor, exactly or as ``wanted`` where that can be, or small ones together; return fields of a record.

    ``rounded`` are the codes of a tensor that is integers times scales already.
    """
    if len(tensors) > 1:
        joined = torch.cat([tensor.detach().to("cpu").reshape(-1) for tensor in tensors])
        return {"values": out.words(to_words(joined, kind), kind.signed)}
    words, fields = to_words(tensors[0], kind), Fields()
    bits = 8 * kind.width - (5 if kind.signed and kind.width > 1 else 0)  # of a trained weight, about
    found = blocks or detect(words, bits, kind.signed)  # structure that is known, or looked for
    if wanted is not None and rounded is None:
        # Unified blocks stay so where their rows share a scale.
        one = found and wanted.bits < 16 and _states(found.matrix(words), found, bits, True)[1] is not None
        rounded = quantise(tensors[0], wanted.bits, found.rows if found and one else 1)
    if rounded is not None:
        words, scales, lost = rounded
        planes = None if scales is None else out.words(rotate(scales.view(SCALE), 1), noisy=True)
        fields["quantised"], bits = replace(lost, scales=planes), lost.bits - 1
        found = blocks or detect(words, bits, True)
    values, shape = words.reshape(-1), words.shape
    if found is not None:
        matrix, one = found.matrix(words), words.dtype.type(1)
        flat, (high, unified) = matrix.reshape(-1), _states(matrix, found, bits, kind.signed)
        kept = nonzero = high > one if kind.signed else high != 0
        fields |= {"blocks": found, "nonzero": out.bits(nonzero)}
        if kind.signed and (high == one).any():
            fields["negative"] = out.bits((flat[found.places(~nonzero, shape)] & one).astype(np.bool_))
        if unified is not None:
            kept = nonzero & ~unified
            fields["unified"] = out.bits(unified.reshape(-1)[np.flatnonzero(nonzero)])
            fields["signs"] = out.bits((flat[found.places(unified, shape)] & one).astype(np.bool_))
            fields["magnitudes"] = out.words(high.reshape(-1)[np.flatnonzero(unified)] & ~one, kind.signed)
        values = flat[found.places(kept, shape)]
    return fields | {"values": out.words(values, kind.signed)}


def _states(matrix: Words, blocks: Blocks, bits: float, signed: bool) -> tuple[Words, Chosen | None]:
    """Return the largest word of each block, and which have one magnitude that is not 0, if to say so saves enough."""
    high, one = blocks.fold(np.maximum, matrix), matrix.dtype.type(1)
    if not signed or blocks.size == 1:
        return high, None
    unified: Chosen = (blocks.fold(np.minimum, matrix) >> one == high >> one) & (high > one)
    number, of = int(np.count_nonzero(unified)), int(np.count_nonzero(high > one))
    states = of * entropy(number / max(1, of))
    return high, unified if number * (blocks.size - 1) * (bits - 1) > states + STATES else None


def decode(record: Record, streams: Reader) -> dict[str, Tensor]:
    """Return the tensors of a record by name."""
    kind, shapes = record.kind, [shape for _, shape in record.tensors]
    scales, dtype, turned = _scales(record, streams)
    shape = kind.word_shape(shapes[0]) if len(shapes) == 1 else (record.elements * kind.words,)
    if record.blocks is None:
        words = streams.words(record.values, prod(shape), dtype).reshape(shape)
        words = rotate(words, -1) if turned else words
    else:
        flat = np.zeros(prod(shape), dtype)
        for places, some in _elements(record, record.blocks, shape, dtype, streams, zeros=True):
            flat[places] = rotate(some, -1) if turned else some
        words = record.blocks.tensor(flat, shape)
    streams.finish()
    if record.quantised is not None:
        found = [torch.from_numpy(dequantise(words, scales)).to(kind.dtype)]
    elif len(shapes) == 1:
        found = [to_tensor(words, kind, shapes[0])]
    else:
        pieces = np.split(words, np.cumsum([prod(shape) * kind.words for shape in shapes])[:-1])
        found = [to_tensor(piece.copy(), kind, shape) for piece, shape in zip(pieces, shapes, strict=True)]
    if kind.dtype is torch.bool and any(tensor.view(torch.uint8).gt(1).any() for tensor in found):
        raise ArtefactError("a truth value is neither 0 nor 1")
    return {name: tensor for (names, _), tensor in zip(record.tensors, found, strict=True) for name in names}


def decode_nonzero(record: Record, streams: Reader) -> Nonzero | None:
    """Return the elements of a record's nonzero blocks; None where it is not one float32 tensor with blocks."""
    blocks, (_, shape) = record.blocks, record.tensors[0]
    if record.type != "F32" or blocks is None:
        return None
    scales, dtype, turned = _scales(record, streams)
    elements = _elements(record, blocks, shape, dtype, streams, zeros=False)
    places, words = map(np.concatenate, zip(*elements, strict=True))
    streams.finish()
    places = blocks.natural(places, shape).astype(np.int32 if prod(shape) < 1 << 31 else np.int64)
    if turned:
        return Nonzero(blocks, shape, places, rotate(words, -1).view(np.float32))
    of = None if scales is None else scales[places // prod(shape[1:])]
    return Nonzero(blocks, shape, places, dequantise(words, of))


def _elements(
    record: Record, blocks: Blocks, shape: tuple[int, ...], dtype: np.dtype[Any], streams: Reader, zeros: bool
) -> Iterator[tuple[NDArray[np.int64], Words]]:
    """Yield the elements of blocks of -0.0 (``zeros``), unified and kept ones: places in the matrix, and words."""
    grid = blocks.grid(shape)
    kept = nonzero = streams.bits(record.nonzero, prod(grid)).reshape(grid)
    if record.negative and zeros:
        places = blocks.places(~nonzero, shape)
        yield places, streams.bits(record.negative, len(places)).astype(dtype)
    else:
        streams.skip(record.negative)
    if record.magnitudes is not None:
        unified = np.zeros_like(nonzero)
        unified[nonzero] = streams.bits(record.unified, int(np.count_nonzero(nonzero)))
        places, blocks_of = blocks.places(unified, shape), np.flatnonzero(unified)
        signs, words = streams.bits(record.signs, len(places)), np.zeros(prod(grid), dtype)
        words[blocks_of] = streams.words(record.magnitudes, len(blocks_of), dtype)
        yield places, words[blocks.block_of(places, shape)] | signs
        kept = nonzero & ~unified
    places = blocks.places(kept, shape)
    yield places, streams.words(record.values, len(places), dtype)


def _scales(record: Record, streams: Reader) -> tuple[NDArray[np.float32] | None, np.dtype[Any], bool]:
    """Return a scale for each first index, if there are any; the type of the words; whether they have to be turned."""
    if record.quantised is None:
        return None, np.dtype(f"<u{record.kind.width}"), record.kind.signed
    if record.quantised.scales is None:
        return None, HALF, False
    (_, (first, *_)), *_ = record.tensors
    words = streams.words(record.quantised.scales, -(-first // record.quantised.rows), SCALE)
    return np.repeat(rotate(words, -1).view(np.float32), record.quantised.rows)[:first], CODE, False
