"""What is on the disk: random access, limits, names; and clear errors for everything that is not right."""

import hashlib
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from format_reader import raw
from torch import nn

import secateur as sc
from secateur.artefact.files import parse_json
from secateur.artefact.packed import Blocks, read, write_packed
from secateur.artefact.packed.header import checked, memory, to_json
from secateur.artefact.packed.write import sealed
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
        assert set(file.all(without={"a.weight", "b.weight", "a.bias"})) == set(file) - {
            "a.weight",
            "b.weight",
            "a.bias",
        }
        _, start = file._tensors["b.bias"]
    kept += 1  # memory of its own
    data = bytearray(packed.read_bytes())
    data[start] ^= 1
    packed.write_bytes(data)
    with sc.PackedFile(packed) as file:
        assert torch.equal(file["a.weight"], net.a.weight)
        with pytest.raises(ArtefactError, match=r"net\.sec: 'b\.bias': it was changed or damaged"):
            file["b.bias"]


def test_texts_stand_beside_tensors(tmp_path: Path) -> None:
    texts = {"plan.json": '{"é": "\U0001f331"}' * 99, "empty": ""}
    write_packed(tmp_path / "x.sec", {"w": torch.ones(3)}, texts=texts)
    with sc.PackedFile(tmp_path / "x.sec") as file:
        assert list(file) == ["w"]
        assert {name: file.text(name) for name in file.texts} == texts
        with pytest.raises(ArtefactError, match=r"no text 'plan.jsn'.*Did you mean 'plan.json'"):
            file.text("plan.jsn")
    with pytest.raises(ArtefactError, match="two tensors have one name"):
        write_packed(tmp_path / "x.sec", {"w": torch.ones(3)}, texts={"w": ""})
    write_packed(tmp_path / "x.sec", {"w": torch.full((9,), 255, dtype=torch.uint8)})
    data = (tmp_path / "x.sec").read_bytes()
    rewrite(tmp_path / "y.sec", data, lambda records: records[0].update(type="TEXT"))
    with sc.PackedFile(tmp_path / "y.sec") as file, pytest.raises(ArtefactError, match="'w': 'utf-8' codec"):
        file.text("w")


def test_many_small_tensors_share_records(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.full((1000,), float(i)) for i in range(100)} | {"n": torch.tensor(3)}
    sc.pack(tensors, tmp_path / "x.sec")
    with sc.PackedFile(tmp_path / "x.sec") as file:
        assert [len(record.tensors) for record in file.records] == [65, 35, 1]
        assert all(torch.equal(value, tensors[name]) for name, value in file.all().items())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"w": 3}, "'w' is a int"),
        ({"w" * 2000: torch.ones(1)}, "at most 1024"),
        ({"w\ud800": torch.ones(1)}, "valid string"),
        ({3: torch.ones(1)}, "valid string"),
        ({"w": torch.ones(3, 3).to_sparse()}, "not an ordinary tensor"),
        ({"w": torch.ones(3, device="meta")}, "not an ordinary tensor"),
        ({"w": torch.ones([1] * 17)}, "at most 16"),
        ("nowhere", "no artefact at nowhere"),
    ],
)
def test_what_cannot_be_packed(source: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=message):
        sc.pack(source, tmp_path / "x.sec")
    assert not (tmp_path / "x.sec").exists()


@pytest.mark.parametrize(
    ("name", "blocks", "message"),
    [
        ("weigth", Blocks(8), r"blocks names 'weigth', which is no tensor.*Did you mean 'weight'"),
        ("weight", Blocks(9), r"rows=9.* do not fit 'weight', whose shape is \(8, 4\)"),
        ("weight", Blocks(1, 5), "do not fit"),
        ("weight", Blocks(1, 2, True), "do not fit"),
        ("one", Blocks(1), "do not fit"),
        ("none", Blocks(1), "do not fit"),
    ],
)
def test_named_blocks_must_fit(name: str, blocks: Blocks, message: str, tmp_path: Path) -> None:
    tensors = {"weight": torch.ones(8, 4), "one": torch.tensor(1.0), "none": torch.ones(0, 3)}
    with pytest.raises(ArtefactError, match=message):
        sc.pack(tensors, tmp_path / "x.sec", blocks={name: blocks})
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Blocks(0)


def test_an_older_file_is_replaced_whole(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = packed.read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ArtefactError, match=r"net\.sec' cannot be written: No space left"):
        sc.pack({"w": torch.ones(3)}, packed)
    assert packed.read_bytes() == before
    assert [p.name for p in packed.parent.iterdir()] == ["net.sec"]


def test_files_that_cannot_be_written_or_read_say_so(packed: Path, tmp_path: Path) -> None:
    for path in (packed / "below a file", tmp_path / ("x" * 300)):
        with pytest.raises(ArtefactError, match="cannot be written"):
            sc.pack({"w": torch.ones(3)}, path)
        with pytest.raises(ArtefactError, match="no packed file at"):
            sc.unpack(path)
    with pytest.raises(ArtefactError, match="is a folder"):
        sc.pack({"w": torch.ones(3)}, tmp_path)


def parts(data: bytes) -> tuple[Any, bytes]:
    end = read.PREFIX.size + read.PREFIX.unpack_from(data)[2]
    return json.loads(zstandard.decompress(data[read.PREFIX.size : end])), data[end:]


def rewrite(path: Path, data: bytes, change: Any) -> None:
    """Write a file again with another header, whose digest is right."""
    records, body = parts(data)
    change(records)
    path.write_bytes(sealed(json.dumps(records).encode()) + body)


def test_foreign_and_damaged_files(packed: Path, tmp_path: Path) -> None:
    data = packed.read_bytes()
    version = data[:8] + b"\x07" + data[9:]
    sizes = read.PREFIX.pack(read.MAGIC, 2, 100, 1 << 30, bytes(32)) + bytes(200)
    for name, content, message in (
        ("empty", b"", "is a file, but not a packed one"),
        ("short", b"PK", "not a packed one: it begins with b'PK'"),
        ("foreign", b"PK\x03\x04" + bytes(200), "not a packed one"),
        ("cut in the magic", data[:5], "truncated"),
        ("cut in the prefix", data[:30], "truncated"),
        ("cut in the header", data[:100], "truncated: it ends at byte 100"),
        ("cut in the tensors", data[:-1], "is truncated: it has"),
        ("longer", data + b"x", "is too long"),
        ("another header", data[:70] + bytes([data[70] ^ 4]) + data[71:], "header was changed"),
        ("newer", version, "format version 7, this secateur reads 2: update"),
        ("older", data[:8] + b"\x01" + data[9:], "format version 1, this secateur reads 2: pack again"),
        ("large header", sizes, "its header has more than"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtefactError, match=message):
            sc.unpack(tmp_path / name)
    with pytest.raises(ArtefactError, match=r"no packed file at .*, but a folder"):
        sc.unpack(tmp_path)
    with pytest.raises(ArtefactError, match="no packed file at"):
        sc.unpack(tmp_path / "none")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtefactError, match="no packed file at"):
        sc.unpack(tmp_path / "pipe")


def test_more_than_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = sc.pack({"w": torch.zeros(64, 1 << 18, dtype=torch.uint8)}, tmp_path / "zeros.sec").path
    tracemalloc.start()
    try:
        with pytest.raises(ArtefactError, match=r"more than the limit of \d+; if you trust it"):
            sc.unpack(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert not sc.unpack(path, limit=1 << 31)["w"].any()


def test_texts_count_in_the_limit(tmp_path: Path) -> None:
    """A plan of a few hundred bytes may unfold to megabytes of lists."""
    text = "[" + "[]," * (1 << 18) + "[]]"
    write_packed(tmp_path / "x.sec", {"w": torch.ones(3)}, texts={"plan.json": text})
    assert (tmp_path / "x.sec").stat().st_size < 2000
    with sc.PackedFile(tmp_path / "x.sec") as file:
        needed = memory(file.records)
        tracemalloc.start()
        try:
            content = json.loads(file.text("plan.json"))
            assert tracemalloc.get_traced_memory()[1] < needed
        finally:
            tracemalloc.stop()
        assert len(content) == (1 << 18) + 1
    with pytest.raises(ArtefactError, match="more than the limit"):
        sc.unpack(tmp_path / "x.sec", limit=needed - 1)
    write_packed(tmp_path / "y.sec", {}, texts={"plan.json": " " * (1 << 23)})
    with pytest.raises(ArtefactError, match="more than the limit"):
        sc.unpack(tmp_path / "y.sec")


def test_a_header_that_unfolds_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    (tmp_path / "x.sec").write_bytes(sealed(b" " * (1 << 24)))
    tracemalloc.start()
    try:
        with pytest.raises(ArtefactError, match="more than the limit"):
            sc.unpack(tmp_path / "x.sec")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


HEX = "0" * 32
LOSS = {"relative_error": 0, "max_error": 0}
PLANES = {"sizes": [0, 0, 0, 0]}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("0.tensors.0.0", [], "at least 1 item"),
        ("0.tensors.0.0", [3], "valid string"),
        ("0.tensors.0.0", ["x" * 2000], "at most 1024"),
        ("0.tensors.0.0", ["norm.weight"], "two tensors have one name"),
        ("0.tensors.0.1", [-1], "greater than or equal to 0"),
        ("0.tensors.0.1", [1 << 30, 1 << 30], "more than 4398046511104 bytes"),
        ("0.tensors.0.1", [0, 1 << 41, 1 << 41], "more than 4398046511104 bytes"),
        ("0.tensors.0.1", [1 << 64], "less than or equal to"),
        ("0.tensors.0.1", [True], "valid integer"),
        ("0.tensors.0.1", ["7"], "valid integer"),
        ("0.tensors.0.1", [1] * 17, "at most 16"),
        ("0.tensors.0", [["a"]], "Field required"),
        ("0.tensors", [], "at least 1 item"),
        ("0.type", "F31", "match pattern"),
        ("0.digest", "00", "match pattern"),
        ("0.digest", "zz" * 16, "match pattern"),
        ("0.digest", HEX + "\n", "match pattern"),
        ("0.surprise", 1, "record 0.surprise: Unexpected keyword argument"),
        ("0.\x1b[2J", 1, r"record 0\.\\x1b\[2J: Unexpected"),
        ("0.values", {"sizes": [1.5]}, "valid integer"),
        ("0.values", {"sizes": [1] * 9}, "at most 8"),
        ("0.values", {"sizes": []}, "at least 1 item"),
        ("0.values", {"sizes": [0, 0]}, "is too long"),
        ("0.values.base", 1 << 16, "less than 65536"),
        ("0.values.shift", 4, "less than or equal to 3"),
        ("0.blocks", {"rows": 0}, "greater than or equal to 1"),
        ("0.blocks", {"rows": 65}, "do not fit 'a.weight'"),
        ("0.blocks", {"columns": 28, "rows": 1}, "do not fit 'a.weight'"),
        ("0.blocks", {"rows": 1, "taps_first": 1}, "valid boolean"),
        ("0.blocks", {"columns": 1}, "rows: Field required"),
        ("2.blocks", {"rows": 1}, "shares its record"),
        ("2.quantised", {"bits": 16} | LOSS, "shares its record"),
        ("3.quantised", {"bits": 16} | LOSS, "cannot be quantised so: it is I64"),
        ("0.quantised", {"bits": 5} | LOSS, "to 5 bits, but its scales do not fit"),
        ("0.quantised", {"bits": 8} | LOSS, "its scales do not fit"),
        ("0.quantised", {"bits": 16, "scales": PLANES} | LOSS, "its scales do not fit"),
        ("0.quantised", {"bits": 8, "rows": 65, "scales": PLANES} | LOSS, "cannot be quantised so"),
        ("0.quantised", {"bits": 16, "relative_error": -1, "max_error": 0}, "greater than or equal to 0"),
        ("0", [], "a dictionary"),
        ("0", {}, "Field required"),
    ],
)
def test_each_entry_of_the_header_is_checked(packed: Path, path: str, value: Any, message: str) -> None:
    def change(records: Any) -> None:
        *keys, last = (
            int(key) if key.isdigit() else key for key in path.split(".", 9 if "x1b" in path else -1)
        )
        place = records
        for key in keys:
            place = place[key]
        place[last] = value

    rewrite(packed, packed.read_bytes(), change)
    with pytest.raises(ArtefactError, match=message):
        sc.unpack(packed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON.*utf-8"),
        (b"[" * 100_000, "nested|not JSON"),
        (b'[{"type":"F32","type":"F32"}]', "same key twice"),
        (b"[NaN]", "NaN"),
        (b"{}", "valid tuple"),
        (
            b'[{"quantised":{"bits":16,"relative_error":1e999,"max_error":0}}]',
            "Field required|finite|too large for a number",
        ),
    ],
)
def test_headers_that_are_none(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "x.sec").write_bytes(sealed(text))
    with pytest.raises(ArtefactError, match=message):
        sc.unpack(tmp_path / "x.sec")


def test_sizes_in_the_prefix_are_checked(packed: Path) -> None:
    data = packed.read_bytes()
    _, version, stored, plain, _ = read.PREFIX.unpack_from(data)
    head = read.PREFIX.pack(read.MAGIC, version, stored, plain + 1, bytes(32))[:-32]
    frame = data[52 : 52 + stored]
    packed.write_bytes(head + hashlib.sha256(head + frame).digest() + frame + data[52 + stored :])
    with pytest.raises(ArtefactError, match="a zstandard frame has not"):
        sc.unpack(packed)


def test_headers_come_back(packed: Path) -> None:
    with sc.PackedFile(packed) as file:
        records = file.records
    assert checked(parse_json(to_json(records), "x")) == records
    assert checked(records) == records
    assert b"nonzero" in to_json(records)
    assert b"null" not in to_json(records)


def test_an_error_in_each_of_many_records_takes_no_time() -> None:
    text = json.dumps([{"type": "x"}] * 60_000).encode()
    with pytest.raises(ArtefactError, match="record 0"):
        checked(parse_json(text, "x"))


def test_values_of_a_hostile_file_have_the_declared_size(packed: Path) -> None:
    """A stream that stands for another array is an error, whatever its digest."""
    data = packed.read_bytes()
    rewrite(packed, data, lambda records: records[0]["tensors"][0].__setitem__(1, [64, 3, 3, 2]))
    with sc.PackedFile(packed) as file, pytest.raises(ArtefactError, match=r"'a\.weight': a zstandard frame"):
        file["a.weight"]
    with sc.PackedFile(packed) as file:
        assert raw(file["b.weight"])
