"""Artefacts and safetensors files into one file and out again; what is damaged is not packed; the table."""

import hashlib
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from artefacts import resign
from safetensors.torch import load_file, save_file
from torch import nn

import secateur as sc
from secateur.artefact import describe, unpack_to
from secateur.artefact.packed import write_packed
from secateur.ground.errors import ArtefactError, printable

IMAGES = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    budget = sc.Budget(macs=0.5)
    result = sc.prune(network(), IMAGES, method=sc.Magnitude(), budget=budget, calibration=[IMAGES])
    result.save(tmp_path / "half")
    return tmp_path / "half"


def test_an_artefact_goes_in_and_out(artefact: Path, tmp_path: Path) -> None:
    packed = sc.pack(artefact, tmp_path / "half.sec")
    loaded = [sc.load(path, network) for path in (artefact, packed.path)]
    assert torch.equal(loaded[0](IMAGES), loaded[1](IMAGES))
    again = unpack_to(packed.path, tmp_path / "again")
    for name in ("model.safetensors", "plan.json", "recipe.yaml", "report.json"):
        assert (again / name).read_bytes() == (artefact / name).read_bytes()


@pytest.mark.parametrize("name", ["model.safetensors", "plan.json", "recipe.yaml", "report.json"])
def test_a_damaged_artefact_gets_no_fresh_digests(artefact: Path, tmp_path: Path, name: str) -> None:
    data = bytearray((artefact / name).read_bytes())
    data[-1] ^= 0x40
    (artefact / name).write_bytes(data)
    with pytest.raises(ArtefactError, match=name.replace(".", r"\.")):
        sc.pack(artefact, tmp_path / "half.sec")
    assert not (tmp_path / "half.sec").exists()


def test_texts_of_an_artefact_count_in_the_limit(artefact: Path, tmp_path: Path) -> None:
    texts = {name: (artefact / name).read_text() for name in ("recipe.yaml", "report.json")}
    texts["plan.json"] = (artefact / "plan.json").read_text() + " " * (1 << 23)
    write_packed(tmp_path / "half.sec", load_file(artefact / "model.safetensors"), texts=texts)
    assert (tmp_path / "half.sec").stat().st_size < 10_000
    with pytest.raises(ArtefactError, match="more than the limit"):
        sc.load(tmp_path / "half.sec", network)


def test_an_artefact_without_its_report_is_not_unpacked(artefact: Path, tmp_path: Path) -> None:
    plan = {"plan.json": (artefact / "plan.json").read_text()}
    write_packed(tmp_path / "half.sec", load_file(artefact / "model.safetensors"), texts=plan)
    with pytest.raises(ArtefactError, match=r"incomplete: it has no recipe\.yaml"):
        unpack_to(tmp_path / "half.sec", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_safetensors_files_go_in_and_out(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(40, 64), "n": torch.tensor([1, 2])}
    save_file(tensors, tmp_path / "net.safetensors")
    packed = sc.pack(tmp_path / "net.safetensors", tmp_path / "net.sec")
    found = load_file(unpack_to(packed.path, tmp_path / "out.safetensors"))
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    with pytest.raises(ArtefactError, match="holds tensors and no plan"):
        sc.load(packed.path, network)
    (tmp_path / "net.safetensors").write_bytes((tmp_path / "net.safetensors").read_bytes()[:-1])
    with pytest.raises(ArtefactError, match="not a safetensors file that can be read"):
        sc.pack(tmp_path / "net.safetensors", tmp_path / "net.sec")


def sparse(path: Path, declared: int, length: int) -> None:
    """Write a safetensors file that declares so many floats and then consists of a hole."""
    entry = {"dtype": "F32", "shape": [declared], "data_offsets": [0, 4 * declared]}
    header = json.dumps({"w": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, length if length > 4 * declared else 8 + len(header) + 4 * declared)


@pytest.mark.parametrize(
    ("declared", "message"), [(4, "not fully covered|incomplete"), (10 << 30, r"takes only \d+ on the disk")]
)
def test_a_file_of_holes_is_refused_before_it_is_read(
    artefact: Path, tmp_path: Path, declared: int, message: str
) -> None:
    path = artefact / "model.safetensors"
    sparse(path, declared, 40 << 30)
    if path.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("this file system has no holes")
    plan = json.loads((artefact / "plan.json").read_text())
    (artefact / "plan.json").write_text(json.dumps(plan | {"size": path.stat().st_size}))
    manifest = json.loads((artefact / "manifest.json").read_text())
    content = (artefact / "plan.json").read_bytes()
    manifest["files"]["plan.json"] = {
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    manifest["files"]["model.safetensors"]["size"] = path.stat().st_size
    (artefact / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=message):
        sc.load(artefact, network)
    for source in (artefact, path):
        with pytest.raises(ArtefactError, match=message):
            sc.pack(source, tmp_path / "x.sec")


def test_tied_tensors_are_stored_once(tmp_path: Path) -> None:
    weight = torch.randn(64, 64)
    packed = sc.pack({"a": weight, "b": weight, "c": weight.clone()}, tmp_path / "x.sec")
    found = sc.unpack(packed.path)
    assert found["a"] is found["b"]
    assert [t.name for t in packed.tensors] == ["a", "c"]
    assert packed.dense_bytes == 2 * weight.nbytes
    value = torch.randn(40, 40, dtype=torch.complex64)
    views = {"z": value, "conjugate": value.conj(), "imag": value.imag, "minus": value.conj().imag}
    found = sc.unpack(sc.pack(views, tmp_path / "y.sec").path)
    assert all(torch.equal(found[name], view) for name, view in views.items())
    out = load_file(unpack_to(packed.path, tmp_path / "x.safetensors"))
    assert all(torch.equal(out[name], weight) for name in "abc")


def test_the_table_adds_up(tmp_path: Path) -> None:
    tensors = dict(network().state_dict()) | {"empty": torch.zeros(0, 3), "zeros": torch.zeros(2000)}
    tensors["blocks"] = torch.randn(64, 64) * (torch.rand(8, 64) < 0.3).repeat_interleave(8, 0) + 0.0
    packed = sc.pack(tensors, tmp_path / "net.sec")
    assert describe(packed.path) == packed
    with sc.PackedFile(packed.path) as file:
        assert sum(t.bytes for t in packed.tensors) == pytest.approx(sum(r.size for r in file.records))
    assert packed.bytes == packed.path.stat().st_size
    assert packed.dense_bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert {t.name: t.coding for t in packed.tensors if t.name in ("blocks", "zeros", "empty")} == {
        "blocks": "8x1 blocks",
        "zeros": "sparse",
        "empty": "dense, 5 together",
    }
    data = json.loads(json.dumps(packed.to_json()))
    assert data["ratio"] == packed.ratio
    assert {"name", "dtype", "shape", "coding", "dense_bytes", "bytes", "bits"} < data["tensors"][0].keys()


def test_names_cannot_command_a_terminal(tmp_path: Path) -> None:
    name = "a\x1b[2J\nb\u202e"
    sc.pack({name: torch.zeros(3)}, tmp_path / "x.sec")
    table = str(describe(tmp_path / "x.sec"))
    assert r"a\x1b[2J\nb\u202e" in table
    assert len(table.splitlines()) == 3
    assert name in sc.unpack(tmp_path / "x.sec")
    with sc.PackedFile(tmp_path / "x.sec") as file, pytest.raises(ArtefactError) as caught:
        file.text(name)
    assert printable(str(caught.value)) == str(caught.value)


def test_hostile_words_of_a_plan_are_escaped(artefact: Path) -> None:
    text = (artefact / "plan.json").read_text()
    assert '"model":"Sequential"' in text
    (artefact / "plan.json").write_text(text.replace('"model":"Seq', '"model":"\\u001b[31mSeq'))
    resign(artefact)
    with pytest.raises(ArtefactError, match=r"\\x1b\[31mSeq") as caught:
        sc.load(artefact, network)
    assert "\x1b" not in str(caught.value)
