"""What is on the disk: models, artefacts, random access; and clear errors for everything that is not right."""

import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import secateur as sc
from secateur.artefact.packed import Blocks, describe, read, unpack_to
from secateur.artefact.packed.coders import compress, decompress
from secateur.artefact.packed.header import Header, header_from_json, header_to_json
from secateur.ground.errors import ArtefactError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 64, 3)
        self.norm = nn.BatchNorm2d(64)
        self.b = nn.Linear(64, 40)
        self.c = nn.Linear(64, 40)
        self.c.weight = self.b.weight


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        model.b.weight *= (torch.rand(5, 64) < 0.3).repeat_interleave(8, 0)
    return model


@pytest.fixture
def packed(net: Net, tmp_path: Path) -> Path:
    return sc.pack(net, tmp_path / "net.sec").path


def test_a_model_comes_back(net: Net, packed: Path) -> None:
    found = sc.unpack(packed)
    expected = net.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert found["b.weight"] is found["c.weight"]
    fresh = Net()
    fresh.load_state_dict(found)


def test_one_tensor_is_read_alone(net: Net, packed: Path) -> None:
    with sc.PackedFile(packed) as file:
        assert set(file) == set(net.state_dict())
        assert len(file) == len(net.state_dict())
        assert torch.equal(file["a.weight"], net.a.weight)
        assert torch.equal(file["c.weight"], net.b.weight)
        assert torch.equal(file["norm.running_var"], net.norm.running_var)
        with pytest.raises(KeyError, match=r"no tensor 'a.weigth'.*Did you mean 'a.weight'"):
            file["a.weigth"]
        kept = file["a.bias"]
    kept += 1  # memory of its own
    data = bytearray(packed.read_bytes())
    with sc.PackedFile(packed) as file:
        start = file._starts[file._records["b.bias"]]
    data[start] ^= 1
    packed.write_bytes(data)
    with sc.PackedFile(packed) as file:
        assert torch.equal(file["a.weight"], net.a.weight)
        with pytest.raises(ArtefactError, match="changed or damaged"):
            file["b.bias"]


def test_safetensors_files_go_in_and_out(net: Net, tmp_path: Path) -> None:
    tensors = {"w": net.b.weight.detach(), "n": torch.tensor([1, 2])}
    save_file(tensors, tmp_path / "net.safetensors")
    packed = sc.pack(tmp_path / "net.safetensors", tmp_path / "net.sec")
    out = unpack_to(packed.path, tmp_path / "out.safetensors")
    found = load_file(out)
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    with pytest.raises(ArtefactError, match="holds tensors and no plan"):
        sc.load(packed.path, Net)


def test_the_table_adds_up(packed: Path) -> None:
    found = describe(packed)
    with sc.PackedFile(packed) as file:
        stored = file.header.size
    assert sum(t.bytes for t in found.tensors) == pytest.approx(stored)
    assert found.bytes == packed.stat().st_size
    assert "8x1 blocks" in str(found)
    assert json.loads(json.dumps(found.to_json()))["ratio"] == found.ratio


def test_an_older_file_is_replaced_whole(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = packed.read_bytes()

    def fail(_: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        sc.pack({"w": torch.ones(3)}, packed)
    assert packed.read_bytes() == before
    assert [p.name for p in packed.parent.iterdir()] == ["net.sec"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"w": 3}, "'w' is a int"),
        ({"w" * 2000: torch.ones(1)}, "at most 1024"),
        ({"w": torch.ones(3, 3).to_sparse()}, "not an ordinary tensor"),
        ({"w": torch.ones(3, device="meta")}, "not an ordinary tensor"),
        ("nowhere", "no artefact at nowhere"),
    ],
)
def test_what_cannot_be_packed(source: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=message):
        sc.pack(source, tmp_path / "x.sec")
    assert not (tmp_path / "x.sec").exists()


@pytest.mark.parametrize(
    ("name", "layout", "message"),
    [
        (
            "weigth",
            Blocks(((0,), (1,)), (8, 1)),
            r"blocks names 'weigth', which is no tensor.*Did you mean 'weight'",
        ),
        ("weight", Blocks(((0,),), (8,)), "each of the 2 dimensions of weight once"),
        ("weight", Blocks(((0,), (1,)), (8,)), "one size for each axis"),
        ("weight", Blocks(((0,), (1,)), (9, 1)), r"larger than weight, which is \(8, 4\)"),
        ("weight", Blocks(((0,), (1,)), (0, 1)), "one size for each axis"),
    ],
)
def test_named_blocks_must_fit(name: str, layout: Blocks, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=message):
        sc.pack({"weight": torch.ones(8, 4)}, tmp_path / "x.sec", blocks={name: layout})


def test_quantise_knows_its_bits() -> None:
    with pytest.raises(ValueError, match="16, 8 and 4"):
        sc.Quantise(5)


def rewrite(path: Path, text: bytes, **prefix: int) -> None:
    """Replace the header by another one, with a digest that is right."""
    data = path.read_bytes()
    _, version, stored, _, _ = read.PREFIX.unpack_from(data)
    body = compress(text, 1)
    values = {"version": version, "stored": len(body), "plain": len(text)} | prefix
    head = struct.pack("<8sIII", read.MAGIC, values["version"], values["stored"], values["plain"])
    rest = data[read.PREFIX.size + stored :]
    path.write_bytes(head + read.header_digest(head, body) + body + rest)


def text_of(path: Path) -> bytes:
    data = path.read_bytes()
    _, _, stored, plain, _ = read.PREFIX.unpack_from(data)
    return decompress(data[read.PREFIX.size : read.PREFIX.size + stored], plain)


def test_foreign_and_damaged_files(packed: Path, tmp_path: Path) -> None:
    data = packed.read_bytes()
    for name, content, message in (
        ("empty", b"", "is a file, but not a packed one"),
        ("short", b"PK", "not a packed one"),
        ("foreign", b"PK\x03\x04" + bytes(200), "not a packed one"),
        ("cut in the prefix", data[:30], "truncated"),
        ("cut in the header", data[:100], "ends within its header"),
        ("cut in the tensors", data[:-1], "is truncated: it has"),
        ("longer", data + b"x", "is too long"),
        ("another header", data[:70] + bytes([data[70] ^ 4]) + data[71:], "header was changed"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtefactError, match=message):
            sc.unpack(tmp_path / name)
    with pytest.raises(ArtefactError, match="is a folder"):
        sc.unpack(tmp_path)
    with pytest.raises(ArtefactError, match="no packed file at"):
        sc.unpack(tmp_path / "none")


def test_a_newer_version_says_so(packed: Path) -> None:
    rewrite(packed, text_of(packed), version=2)
    with pytest.raises(ArtefactError, match=r"format version 2.*reads version 1: update"):
        sc.unpack(packed)


def test_more_than_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = sc.pack({"w": torch.zeros(64, 1 << 18, dtype=torch.uint8)}, tmp_path / "zeros.sec").path
    with pytest.raises(ArtefactError, match="more than the limit"):
        sc.unpack(path)
    assert not sc.unpack(path, limit=1 << 31)["w"].any()


def change(header: dict[str, Any], path: str, value: Any) -> None:
    *keys, last = (int(key) if key.isdigit() else key for key in path.split("."))
    place: Any = header
    for key in keys:
        place = place[key]
    place[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("tensors.0.0", 3, "a name has"),
        ("tensors.0.0", "x" * 2000, "a name has"),
        ("tensors.0.1", "F31", "unknown data type 'F31'"),
        ("tensors.0.2", [-1], "an integer from 0"),
        ("tensors.0.2", [1 << 30, 1 << 30], "declares more than"),
        ("tensors.0.2", [0, 1 << 41, 1 << 41], "declares more than"),
        ("tensors.0.2", [True], "an integer from 0"),
        ("tensors.0.2", [1] * 17, "at most 16"),
        ("tensors.1", ["a.weight", "F32", [1]], "two tensors of the header have one name"),
        ("records.0.tensors", [], "has no tensor"),
        ("records.0.tensors", [99], "an integer from 0"),
        ("records.0.tensors", [1], "exactly one record"),
        ("records.0.digest", "00", "32 hexadecimal digits"),
        ("records.0.digest", "zz" * 16, "32 hexadecimal digits"),
        ("records.0.surprise", 1, "unknown entry 'surprise'"),
        ("records.0.parts", [["values", "raw", 1.5]], "an integer from 0"),
        ("records.0.parts", [["values", "lzma", 1]], "'lzma' is not a valid"),
        ("records.0.parts", [["valuez", "raw", 1]], "'valuez' is not a valid"),
        ("records.0.axes", [[0], [1, 2, 3]], "has no entry 'block'"),
        ("records.0.quantised", [5, 1, 0.1, 0.1], "5 bits"),
        ("records.0.quantised", [8, 1, -1, 0.1], "at least 0"),
        ("records.0.quantised", [8], "four numbers"),
        ("records.0.quantised", [8, 65, 0.1, 0.1], "an integer from 1 to 64"),
        ("tied", {"new": "nowhere"}, "does not lead"),
        ("tied", {"new": {}}, "does not lead"),
        ("tied", {"a.weight": "a.bias"}, "does not lead"),
        ("tied", [], "must be an object"),
        ("documents", [["plan.json", 1 << 40, 1, "00" * 16]], "an integer from 0"),
        ("documents", [["plan.json", 1, 1]], "two numbers"),
        ("more", {}, "unknown entry 'more'"),
    ],
)
def test_each_entry_of_the_header_is_checked(packed: Path, path: str, value: Any, message: str) -> None:
    data = json.loads(text_of(packed))
    change(data, path, value)
    rewrite(packed, json.dumps(data).encode())
    with pytest.raises(ArtefactError, match=message):
        sc.unpack(packed)


@pytest.mark.parametrize(
    ("axes", "block", "message"),
    [
        ([[0], [1]], [8, 1], None),
        ([[0], [0]], [8, 1], "each of the 2 dimensions"),
        ([[0]], [8], "each of the 2 dimensions"),
        ([[0], [1]], [8], "one size for each axis"),
        ([[0], [1]], [41, 1], "larger than b.weight"),
        ([[0], [1]], [0, 1], "an integer from 1"),
        ([[0], [1]], [8, 2], "streams? "),
        ([[0, 1]], [1 << 17], "an integer from 1"),
    ],
)
def test_blocks_of_the_header_are_checked(
    packed: Path, axes: list[list[int]], block: list[int], message: str | None
) -> None:
    data = json.loads(text_of(packed))
    (record,) = [r for r in data["records"] if "block" in r]
    assert record["block"] == [8, 1]
    record |= {"axes": axes, "block": block}
    rewrite(packed, json.dumps(data).encode())
    if message is None:
        sc.unpack(packed)
    else:
        with pytest.raises(ArtefactError, match=message):
            sc.unpack(packed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "nested|not JSON"),
        (b"[" * (1 << 22), "longer than any"),
        (b'{"tensors":[],"tensors":[]}', "same key twice"),
        (b'{"tensors":NaN}', "NaN"),
        (b"[]", "must be an object"),
        (b"{}", "no entry 'tensors'"),
    ],
)
def test_headers_that_are_none(packed: Path, text: bytes, message: str) -> None:
    rewrite(packed, text)
    with pytest.raises(ArtefactError, match=message):
        sc.unpack(packed)


def test_sizes_in_the_prefix_are_checked(packed: Path) -> None:
    text = text_of(packed)
    rewrite(packed, text, plain=len(text) + 1)
    with pytest.raises(ArtefactError, match="frame states"):
        sc.unpack(packed)
    rewrite(packed, text, plain=1 << 30)
    with pytest.raises(ArtefactError, match="header has more than"):
        sc.unpack(packed)


def test_headers_come_back(packed: Path) -> None:
    with sc.PackedFile(packed) as file:
        header = file.header
    assert header_from_json(header_to_json(header)) == replace(header, tied=dict(header.tied))
    assert isinstance(header, Header)
