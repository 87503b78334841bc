"""Tensors to records and back: quantised or exact words, the layout that makes them smallest, streams."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.ground.errors import ArtefactError

from .blocks import Blocks
from .coders import Effort
from .detect import detect
from .header import DIGEST, Quantised, Record, TensorInfo
from .quantise import Quantise, dequantise, quantise, scaled
from .streams import Role, Stream, decode, decode_nonzero, decode_values, encode, encode_values
from .words import KINDS, Kind, from_words, kind_of, to_words

__all__ = [
    "Encoded",
    "NonzeroBlocks",
    "decode_blocks",
    "decode_record",
    "digest",
    "encode_small",
    "encode_tensor",
]

Words = NDArray[Any]
HALF, CODE = np.dtype("<u2"), np.dtype("u1")
SCALE = np.dtype("<u4")
PER_PART = 8  # bytes that one more stream costs in the header, about


@dataclass(frozen=True)
class Encoded:
    """Streams with what the header needs besides."""

    streams: Sequence[Stream]
    layout: Blocks | None = None
    quantised: Quantised | None = None

    def record(self, tensors: tuple[int, ...]) -> Record:
        """Return the header's entry for these tensors."""
        parts = tuple(stream.part for stream in self.streams)
        return Record(tensors, self.layout, self.quantised, parts, digest(*(s.data for s in self.streams)))


def digest(*chunks: bytes | memoryview) -> bytes:
    """Return the BLAKE2b digest of stored bytes."""
    state = hashlib.blake2b(digest_size=DIGEST)
    for chunk in chunks:
        state.update(chunk)
    return state.digest()


def encode_tensor(
    name: str, tensor: Tensor, effort: Effort, wanted: Quantise | None, blocks: Blocks | None
) -> Encoded:
    """Return a tensor coded: exactly, or as ``wanted`` where its values are finite.

    ``blocks`` is the structure that it is known to have; otherwise structure is looked for.
    """
    kind = kind_of(tensor, name)
    words = to_words(tensor, kind)
    if wanted is None or not bool(torch.isfinite(tensor).all()):
        streams, layout = _smallest(words, kind.signed, _value_bits(kind), effort, blocks)
        return Encoded(streams, layout)
    rows = _rows(words, kind, effort, blocks) if wanted.bits < 16 else 1
    codes = quantise(tensor, wanted.bits, rows)
    streams, layout = _smallest(codes.words, True, wanted.bits - 1, effort, blocks)
    if len(codes.scales):
        scales = to_words(torch.from_numpy(codes.scales), KINDS["F32"])
        streams = [*encode_values(Role.SCALES, scales, effort, words.size), *streams]
    return Encoded(streams, layout, codes.quantised)


def encode_small(tensors: Mapping[str, Tensor], effort: Effort) -> Encoded:
    """Return small tensors of one data type coded behind each other: together they are smaller."""
    flat = torch.cat([tensor.detach().to("cpu").reshape(-1) for tensor in tensors.values()])
    words = to_words(flat, kind_of(flat, "small tensors")).reshape(-1)
    return Encoded(encode_values(Role.VALUES, words, effort, words.size))


def decode_record(record: Record, tensors: Sequence[TensorInfo], stored: memoryview) -> list[Tensor]:
    """Return the tensors of a record from its bytes.

    Raises:
        ArtefactError: the bytes are not those that the header describes.
    """
    if digest(stored) != record.digest:
        raise ArtefactError("its content was changed or damaged: it does not have the digest of the header")
    kind, streams = tensors[0].kind, _streams(record, stored)
    if record.quantised is not None:
        return [_decode_quantised(record, record.quantised, tensors[0], streams)]
    if len(tensors) == 1:
        words = decode(streams, record.layout, tensors[0].word_shape, kind.word_type, kind.signed)
        return [_checked(words, kind, tensors[0].shape)]
    sizes = [tensor.elements * kind.words for tensor in tensors]
    joined = decode(streams, None, (sum(sizes),), kind.word_type, kind.signed)
    pieces = np.split(joined, np.cumsum(sizes)[:-1])
    return [_checked(piece.copy(), kind, tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]


@dataclass(frozen=True)
class NonzeroBlocks:
    """The blocks of a float32 tensor that are not zero: their numbers in the grid, and values (positions, blocks)."""

    layout: Blocks
    shape: tuple[int, ...]
    number: NDArray[np.int64]
    values: NDArray[np.float32]


def decode_blocks(record: Record, tensor: TensorInfo, stored: memoryview) -> NonzeroBlocks | None:
    """Return a record's blocks without the zeros; None where it is not one float32 tensor whose rows are cut apart.

    Raises:
        ArtefactError: the bytes are not those that the header describes.
    """
    layout, quantised = record.layout, record.quantised
    if len(record.tensors) > 1 or tensor.kind.name != "F32" or layout is None or layout.axes[0] != (0,):
        return None
    if digest(stored) != record.digest:
        raise ArtefactError("its content was changed or damaged: it does not have the digest of the header")
    streams, shape = _streams(record, stored), tensor.shape
    if quantised is None:
        number, words = decode_nonzero(streams, layout, shape, tensor.kind.word_type, signed=True)
        return NonzeroBlocks(layout, shape, number, from_words(words, tensor.kind, words.shape).numpy())
    scales, rest, word_type = _scales(quantised, tensor, streams)
    number, words = decode_nonzero(rest, layout, shape, word_type, signed=True)
    if quantised.bits == 16:
        return NonzeroBlocks(layout, shape, number, dequantise(words, scales, 16, 1).numpy())
    high, (below, *_) = layout.block[0], np.unravel_index(np.arange(layout.size), layout.block)
    row = number // prod(layout.grid(shape)[1:]) * high + below[:, None]
    row = np.minimum(row, shape[0] - 1)  # what lies beyond the edges is zero
    return NonzeroBlocks(layout, shape, number, scaled(words, scales[row // quantised.rows]))


def _decode_quantised(
    record: Record, quantised: Quantised, tensor: TensorInfo, streams: Sequence[Stream]
) -> Tensor:
    scales, rest, word_type = _scales(quantised, tensor, streams)
    codes = decode(rest, record.layout, tensor.shape, word_type, signed=True)
    return dequantise(codes, scales, quantised.bits, quantised.rows).to(tensor.kind.dtype)


def _scales(
    quantised: Quantised, tensor: TensorInfo, streams: Sequence[Stream]
) -> tuple[NDArray[np.float32], list[Stream], np.dtype[Any]]:
    """Return the scales, the streams of codes and their type."""
    if quantised.bits == 16:
        scales = np.empty(0, np.float32)
    else:
        count = -(-tensor.shape[0] // quantised.rows)
        words = decode_values([s for s in streams if s.role is Role.SCALES], count, SCALE)
        scales = from_words(words, KINDS["F32"], (count,)).numpy()
    rest = [stream for stream in streams if stream.role is not Role.SCALES]
    return scales, rest, HALF if quantised.bits == 16 else CODE


def _smallest(
    words: Words, signed: bool, value_bits: float, effort: Effort, blocks: Blocks | None
) -> tuple[list[Stream], Blocks | None]:
    if blocks is not None:
        layouts: list[Blocks | None] = [blocks, None]
    else:
        layouts = detect(words, value_bits, signed)[: effort.layouts]
    tried = [(encode(words, layout, signed, effort), layout) for layout in layouts]
    return min(tried, key=lambda pair: sum(len(stream.data) + PER_PART for stream in pair[0]))


def _value_bits(kind: Kind) -> float:
    """Return about what a value takes: of a trained weight's exponent some five bits are redundant."""
    return 8 * kind.width - (5 if kind.signed and kind.width > 1 else 0)


def _rows(words: Words, kind: Kind, effort: Effort, blocks: Blocks | None) -> int:
    """Return how many rows must share a scale so that unified blocks stay so."""
    streams, layout = _smallest(words, kind.signed, _value_bits(kind), effort, blocks)
    if layout is None or not any(stream.role is Role.UNIFIED for stream in streams):
        return 1
    # Along the first dimension, where it is the first or only one of its axis; else the whole tensor shares one.
    for dims, step in zip(layout.axes, layout.block, strict=True):
        if dims == (0,):
            return step
        if 0 in dims and step > 1:
            return len(words)
    return 1


def _streams(record: Record, stored: memoryview) -> list[Stream]:
    streams, start = [], 0
    for part in record.parts:
        streams.append(Stream(part.role, part.coder, stored[start : start + part.size]))
        start += part.size
    return streams


def _checked(words: Words, kind: Kind, shape: tuple[int, ...]) -> Tensor:
    if kind.dtype is torch.bool and words.size and words.max() > 1:
        raise ArtefactError("a truth value is neither 0 nor 1")
    if words.size != prod(shape) * kind.words:
        raise ArtefactError("a stream does not have the elements of its tensor")
    return from_words(words, kind, shape)
