"""Bits and words, in every form that they are stored in."""

import hashlib

import numpy as np
import pytest
import zstandard
from format_reader import Streams
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secateur.artefact.packed.streams import Planes, Reader, Writer
from secateur.ground.errors import ArtefactError


def reader(out: Writer) -> tuple[Reader, bytes]:
    digest, chunks = out.take()
    data = b"".join(chunks)
    assert digest == hashlib.sha256(data).hexdigest()[:32]
    return Reader(memoryview(data), zstandard.ZstdDecompressor()), data


@settings(deadline=None)
@given(
    count=st.integers(0, 3000),
    share=st.sampled_from([0, 0.001, 0.02, 0.1, 0.5, 0.99, 1]),
    seed=st.integers(0, 99),
)
def test_bits_come_back(count: int, share: float, seed: int) -> None:
    bits = np.random.default_rng(seed).random(count) < share
    out = Writer()
    size = out.bits(bits)
    assert size <= -(-count // 8)
    streams, data = reader(out)
    assert np.array_equal(streams.bits(size, count), bits)
    streams.finish()
    assert Streams(data).bits(size, count) == bits.tolist()


@pytest.mark.parametrize("gap", [1, 2, 254, 255, 256, 509, 510, 511, 2000])
def test_long_gaps(gap: int) -> None:
    bits = np.zeros(9 * gap + 9000, np.bool_)
    bits[[gap, 2 * gap + 1, 5 * gap + 2]] = True
    out = Writer()
    size = out.bits(bits)
    streams, data = reader(out)
    assert zstandard.frame_content_size(data) == 3 + gap // 255 * 2 + (3 * gap // 255)
    assert np.array_equal(streams.bits(size, bits.size), bits)
    assert Streams(data).bits(size, bits.size) == bits.tolist()


def test_sparse_bits_take_hardly_more_than_their_entropy() -> None:
    rng = np.random.default_rng(0)
    for share, more in ((0.01, 1.03), (0.05, 1.03), (0.1, 1.03), (0.3, 1.03), (0.5, 1.0)):
        entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
        assert Writer().bits(rng.random(1 << 18) < share) <= more * entropy * (1 << 18) / 8 + 30


ARRAYS: dict[str, NDArray[np.unsignedinteger]] = {
    "none": np.zeros(0, np.uint32),
    "zeros": np.zeros(999, np.uint64),
    "one": np.array([5], np.uint16),
    "largest": np.full(40, (1 << 32) - 1, np.uint32),
    "few exponents": np.random.default_rng(0).integers(120 << 24, 128 << 24, 2000).astype(np.uint32),
    "from zero": np.arange(3000, dtype=np.uint64) * 12345678901,
    "codes": np.random.default_rng(1).integers(0, 16, 4999).astype(np.uint8),
    "bytes": np.random.default_rng(1).integers(13, 17, 5000).astype(np.uint8),
}


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("name", list(ARRAYS))
def test_words_come_back(name: str, noisy: bool) -> None:
    words, out = ARRAYS[name], Writer()
    before = words.copy()
    planes = out.words(words, noisy)
    assert np.array_equal(words, before)  # the caller's
    streams, data = reader(out)
    assert sum(planes.sizes) == len(data) <= words.nbytes
    assert np.array_equal(streams.words(planes, words.size, words.dtype), words)
    as_json = {"sizes": planes.sizes, "base": planes.base, "shift": planes.shift, "pairs": planes.pairs}
    assert Streams(data).words(as_json, words.size, words.itemsize) == words.tolist()


def test_weights_are_shifted_so_that_no_bit_is_idle() -> None:
    words, out = ARRAYS["few exponents"], Writer()
    planes = out.words(words, noisy=True)
    assert planes.base == int(words.min()) >> 16
    assert planes.shift == 3
    assert out.words(words, noisy=False) == Planes(out.words(words, noisy=False).sizes)


@pytest.mark.parametrize(
    ("stored", "size", "message"),
    [
        (b"abc", 4, "cannot be read"),
        (zstandard.compress(bytes(99)), 98, "98 to 98 bytes"),
        (zstandard.compress(bytes(99))[:-1], 99, "cannot be read"),
        (zstandard.compress(bytes(99)) + b"x", 99, "cannot be read"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(99)), 99, "zstandard frame"),
        (zstandard.compress(bytes(1 << 30)), 1 << 20, "zstandard frame has not"),
    ],
)
def test_frames_are_checked_before_they_are_read(stored: bytes, size: int, message: str) -> None:
    streams = Reader(memoryview(stored), zstandard.ZstdDecompressor())
    with pytest.raises(ArtefactError, match=message):
        streams.words(Planes((len(stored),)), size, np.dtype("u1"))


def test_streams_must_be_those_that_are_asked_for() -> None:
    def streams(data: bytes) -> Reader:
        return Reader(memoryview(data), zstandard.ZstdDecompressor())

    with pytest.raises(ArtefactError, match="4 bytes cannot come from 2 streams"):
        streams(b"").words(Planes((0, 0)), 3, np.dtype("<u4"))
    gaps = zstandard.compress(bytes([255, 255, 0]))
    with pytest.raises(ArtefactError, match="leads beyond its 40 bits"):
        streams(gaps).bits(len(gaps), 40)
    with pytest.raises(ArtefactError, match="does not belong"):
        streams(b"x").finish()
