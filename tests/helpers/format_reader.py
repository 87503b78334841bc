"""A reader of packed files, written from docs/format.md alone, element by element: it holds the library to the page."""

import hashlib
import json
import struct
from math import prod
from typing import Any

import numpy as np
import torch
import zstandard
from torch import Tensor

WIDTHS = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8, "F16": 2, "BF16": 2,
          "F32": 4, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "F8_E8M0": 1,
          "C32": 2, "C64": 4, "C128": 8, "TEXT": 1}  # fmt: skip
SIGNED = {"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"}
FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


class Streams:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def content(self, size: int, plain: int) -> bytes:
        stored, self.data = self.data[:size], self.data[size:]
        if size == 0:
            return bytes(plain)
        return stored if size == plain else zstandard.decompress(stored)

    def bits(self, size: int, count: int) -> list[int]:
        plain = -(-count // 8)
        content = self.content(size, plain)
        if len(content) == plain:
            return [content[i // 8] >> i % 8 & 1 for i in range(count)]
        bits: list[int] = []
        for gap in content:
            bits += [0] * gap + [1] * (gap != 255)
        return bits + [0] * (count - len(bits))

    def words(self, planes: dict[str, Any], count: int, width: int) -> list[int]:
        if planes.get("pairs", False):
            pairs = self.words(planes | {"pairs": False}, -(-count // 2), width)
            return [code for pair in pairs for code in (pair % 16, pair // 16)][:count]
        assert len(planes["sizes"]) == width
        parts = [self.content(size, count) for size in planes["sizes"]]
        words = [sum(part[i] << 8 * place for place, part in enumerate(parts)) for i in range(count)]
        base = planes.get("base", 0) << 8 * width - 16 if width > 1 else 0
        return [((word >> planes.get("shift", 0)) + base) % (1 << 8 * width) for word in words]


def array(record: dict[str, Any], shape: list[int], width: int, streams: Streams) -> list[int]:
    """Return the words of an array, in its own order."""
    count = prod(shape)
    if "blocks" not in record:
        return streams.words(record["values"], count, width)
    blocks = record["blocks"]
    rows, columns = blocks["rows"], blocks.get("columns", 1)
    places = np.arange(count).reshape(shape)
    if blocks.get("taps_first", False):
        places = np.moveaxis(places, 1, -1)
    places = places.reshape(shape[0], -1)
    across = -(-places.shape[1] // columns)
    number = -(-shape[0] // rows) * across
    state = streams.bits(record.get("nonzero", 0), number)
    magnitudes: list[int] = []
    signs: list[int] = []
    block_of = {(r, c): r // rows * across + c // columns for r, c in np.ndindex(*places.shape)}
    negative = iter(streams.bits(record.get("negative", 0), sum(not state[b] for b in block_of.values())))
    if "magnitudes" in record:
        unified = iter(streams.bits(record.get("unified", 0), sum(state)))
        state = [s and 1 + next(unified) for s in state]
        signs = streams.bits(record.get("signs", 0), sum(state[b] == 2 for b in block_of.values()))
        magnitudes = streams.words(record["magnitudes"], sum(s == 2 for s in state), width)
    kept = iter(streams.words(record["values"], sum(state[b] == 1 for b in block_of.values()), width))
    sign, magnitude = iter(signs), iter(magnitudes)
    of = [next(magnitude) if s == 2 else 0 for s in state]
    words = [0] * count
    for (r, c), b in block_of.items():
        word = next(negative) if not state[b] else next(kept) if state[b] == 1 else of[b] | next(sign)
        words[places[r, c]] = word
    return words


def read(data: bytes) -> dict[str, bytes]:
    """Return the bytes of all tensors and texts by name."""
    magic, version, size, plain = struct.unpack_from("<8sIII", data)
    assert magic == b"\x89SEC\r\n\x1a\n"
    assert version == 2
    end = 52 + size
    assert data[20:52] == hashlib.sha256(data[:20] + data[52:end]).digest()
    text = zstandard.decompress(data[52:end])
    assert len(text) == plain
    found: dict[str, bytes] = {}
    for record in json.loads(text):
        quantised = record.get("quantised", {})
        sizes = [quantised.get("scales", {}).get("sizes", [])]
        sizes += [[record.get(name, 0) for name in ("nonzero", "negative", "unified", "signs")]]
        sizes += [record.get("magnitudes", {}).get("sizes", []), record["values"]["sizes"]]
        start, end = end, end + sum(map(sum, sizes))
        assert record["digest"] == hashlib.sha256(data[start:end]).hexdigest()[:32]
        for names, content in tensors(record, Streams(data[start:end])):
            found |= dict.fromkeys(names, content)
    assert end == len(data)
    return found


def tensors(record: dict[str, Any], streams: Streams) -> list[tuple[list[str], bytes]]:
    kind, quantised = record["type"], record.get("quantised")
    width, signed = WIDTHS[kind], kind in SIGNED
    (names, shape), *others = record["tensors"]
    if quantised is not None:
        scales: list[float] = []
        if "scales" in quantised:
            turned = streams.words(quantised["scales"], -(-shape[0] // quantised.get("rows", 1)), 4)
            scales = back(turned, 4, np.float32).tolist()
        words = array(record, shape, 2 if quantised["bits"] == 16 else 1, streams)
        if quantised["bits"] == 16:
            values = back(words, 2, np.float16).astype(np.float32)
        else:
            inner = prod(shape[1:])
            codes = [(-1) ** (w % 2) * (w // 2) for w in words]
            of = [scales[i // inner // quantised.get("rows", 1)] for i in range(len(codes))]
            values = np.array(codes, np.float32) * np.array(of, np.float32)
        return [(names, raw(torch.from_numpy(values).to(FLOATS[kind])))]
    pair = [2] if kind.startswith("C") else []
    count = [prod(s) * prod(pair) for _, s in record["tensors"]]
    words = array(record, [*shape, *pair] if not others else [sum(count)], width, streams)
    whole = [(w >> 1) + (w & 1) * (1 << 8 * width - 1) for w in words] if signed else words
    content = b"".join(w.to_bytes(width, "little") for w in whole)
    ends = np.cumsum([0, *count]) * width
    return [(of, content[a:b]) for (of, _), a, b in zip(record["tensors"], ends[:-1], ends[1:], strict=True)]


def back(words: list[int], width: int, dtype: Any) -> Any:
    turned = [(w >> 1) + (w & 1) * (1 << 8 * width - 1) for w in words]
    return np.array(turned, f"<u{width}").view(dtype)


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
