"""An artefact comes back bit for bit; anything else on the disk is a clear error."""

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from artefacts import RECIPE, REPORT, Net, Other, edit_manifest, resign
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur as sc
import secateur.artefact.files as files
from secateur.artefact import load, read, save
from secateur.artefact.files import manifest_of
from secateur.artefact.manifest import entries_from_json
from secateur.ground.errors import ArtefactError
from secateur.surgery.plan import Plan


@pytest.mark.parametrize("fresh", [Net, Net()], ids=["callable", "instance"])
def test_saved_is_loaded(saved: Path, small: tuple[nn.Module, Plan], fresh: Any) -> None:
    model = load(saved, fresh)
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(model(x), small[0](x))
    assert not model.training
    assert model.a.weight is model.b.weight
    assert list(model.state_dict()) == list(small[0].state_dict())
    assert torch.equal(model.gain, small[0].gain)
    artefact = read(saved)
    assert artefact.recipe == RECIPE
    assert artefact.report == REPORT
    assert artefact.plan.kept == small[1].kept
    assert sorted(path.name for path in saved.iterdir()) == sorted((*files.FILES, "manifest.json"))


def test_type_and_layout_come_back(tmp_path: Path, small: tuple[nn.Module, Plan]) -> None:
    model = small[0].to(torch.bfloat16).to(memory_format=torch.channels_last)
    loaded = load(save(tmp_path / "a", model, small[1], {}, {}), Net)
    assert loaded.a.weight.dtype == torch.bfloat16
    assert loaded.a.weight.stride() == model.a.weight.stride()
    assert loaded.norm.num_batches_tracked.dtype == torch.int64


def test_an_instance_that_is_given_stays_dense(saved: Path) -> None:
    fresh = Net()
    load(saved, fresh)
    assert fresh.a.out_channels == 5
    assert fresh.a.weight.shape[0] == 5


@pytest.mark.parametrize("name", files.FILES)
def test_each_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ArtefactError, match=f"no file {name}"):
        load(saved, Net)


@pytest.mark.parametrize("name", files.FILES)
def test_links_are_not_followed(saved: Path, name: str) -> None:
    (saved / name).rename(saved.parent / name)
    (saved / name).symlink_to(saved.parent / name)
    with pytest.raises(ArtefactError, match=f"{name} is not an ordinary file"):
        load(saved, Net)


def test_there_is_no_artefact(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no artefact at"):
        load(tmp_path / "none", Net)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="is a file"):
        load(tmp_path / "file", Net)


def test_wrong_models_are_told_apart(saved: Path) -> None:
    with pytest.raises(ArtefactError, match="for a Net, and this is a Other"):
        load(saved, Other)
    with pytest.raises(ArtefactError, match=r"size 5 in dimension 0 of a.weight, which has the shape \(7"):
        load(saved, lambda: Net(7))
    with pytest.raises(ArtefactError, match=r"must make an nn\.Module"):
        load(saved, lambda: 3)  # type: ignore[arg-type, return-value]


def test_a_newer_artefact_says_so(saved: Path) -> None:
    edit_manifest(saved, lambda data: data.update(version=2, surprise=1))
    with pytest.raises(ArtefactError, match=r"version 2.*update secateur"):
        load(saved, Net)


def test_an_unknown_entry_is_refused(saved: Path) -> None:
    edit_manifest(saved, lambda data: data.update(tieds={}))
    with pytest.raises(ArtefactError, match="unknown entry 'tieds'. Did you mean 'tied'"):  # noqa: RUF043
        load(saved, Net)


@pytest.mark.parametrize("length", [0, 4, 8, 100, -1])
def test_a_truncated_tensor_file_says_so(saved: Path, length: int) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ArtefactError, match=r"model.safetensors is truncated"):
        load(saved, Net)


def put_tensors(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(data)
    resign(folder)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{}" + b"x" * 9,
        struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[99999999],"data_offsets":[0,4]}}' + b"1234",
        struct.pack("<Q", 7) + b'{"a":1}',
        b"PK\x03\x04" + b"\0" * 40,
    ],
)
def test_a_hostile_tensor_file_is_refused_though_its_hash_is_right(saved: Path, data: bytes) -> None:
    put_tensors(saved, data)
    with pytest.raises(ArtefactError, match=r"model\.safetensors"):
        load(saved, Net)


def test_missing_surplus_and_misshapen_tensors_are_named(saved: Path) -> None:
    from safetensors.torch import save as dump

    tensors = dict(read(saved).tensors)

    def with_tensors(**changes: Tensor | None) -> None:
        changed = tensors | {key.replace("__", "."): value for key, value in changes.items()}
        put_tensors(saved, dump({key: value for key, value in changed.items() if value is not None}))

    with_tensors(a__bias=None)
    with pytest.raises(ArtefactError, match=r"no tensor 'a\.bias', which the model needs"):
        load(saved, Net)
    with_tensors(branch__value=None)
    with pytest.raises(ArtefactError, match=r"no tensor 'branch\.value'"):
        load(saved, Net)
    with_tensors(extra=torch.ones(1))
    with pytest.raises(ArtefactError, match="a tensor 'extra' that the model lacks"):
        load(saved, Net)
    with_tensors(a__bias=torch.ones(4))
    with pytest.raises(ArtefactError, match=r"a\.bias has the shape \(4,\), the model needs \(3,\)"):
        load(saved, Net)
    with_tensors(a__bias=torch.ones(3, dtype=torch.int32))
    with pytest.raises(ArtefactError, match=r"a\.bias is torch.int32"):
        load(saved, Net)


def test_a_tie_that_the_model_lacks_is_refused(saved: Path) -> None:
    edit_manifest(saved, lambda data: data["tied"].clear())
    with pytest.raises(ArtefactError, match=r"a\.weight, b\.weight are one tensor in the model"):
        load(saved, Net)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from((*files.FILES, "manifest.json")),
    at=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_one_flipped_bit_is_always_seen(saved: Path, name: str, at: float, bit: int) -> None:
    path = saved / name
    content = path.read_bytes()
    place = int(at * len(content))
    path.write_bytes(content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :])
    try:
        with contextlib.suppress(ArtefactError):
            load(saved, Net)
            # The manifest's own white space says nothing.
            assert name == "manifest.json"
            assert manifest_of(saved) == entries_from_json(json.loads(content))
        if name in ("plan.json", "recipe.yaml", "report.json"):
            with pytest.raises(ArtefactError, match=name):
                sc.pack(saved, saved.with_name("packed"))
    finally:
        path.write_bytes(content)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(("model.safetensors", "plan.json", "report.json")), share=st.floats(0, 0.99))
def test_a_file_cut_anywhere_is_an_artefact_error(saved: Path, name: str, share: float) -> None:
    path = saved / name
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    try:
        with pytest.raises(ArtefactError, match=f"{name} is truncated"):
            load(saved, Net)
    finally:
        path.write_bytes(content)


def test_a_text_file_that_is_too_long_is_not_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_TEXT", 10)
    with pytest.raises(ArtefactError, match="more than 10 bytes"):
        load(saved, Net)


def test_a_model_without_values_gets_the_saved_ones(saved: Path, small: tuple[nn.Module, Plan]) -> None:
    with torch.device("meta"):
        fresh = Net()
    x = torch.randn(2, 3, 6, 6)
    for source in (fresh, lambda: fresh):
        model = load(saved, source)
        assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"cpu"}
        assert model.a.weight is model.b.weight
        assert isinstance(model.a.weight, nn.Parameter)
        assert torch.equal(model(x), small[0](x))


@pytest.mark.parametrize("place", ["model", "tensor", "kept", "file"])
def test_messages_have_nothing_that_a_terminal_obeys(saved: Path, place: str) -> None:
    from safetensors.torch import save as dump

    evil = "\x1b]0;pwned\x07\x1b[31m\n"
    if place == "tensor":
        put_tensors(saved, dump({**read(saved).tensors, evil: torch.ones(1)}))
    elif place == "file":
        manifest = json.loads((saved / "manifest.json").read_text())
        manifest["files"][evil] = {}
        (saved / "manifest.json").write_text(json.dumps(manifest))
    else:
        edit_manifest(
            saved,
            lambda data: (
                data["plan"]["made_for"].update(model=evil)
                if place == "model"
                else data["plan"]["edits"][0].update(names=[evil])
            ),
        )
    with pytest.raises(ArtefactError) as caught:
        load(saved, Net)
    assert str(caught.value).isprintable()


VALUES = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from(["", "a", "a.weight", "norm", None, True, 1.5, [], {}, [0], [[0]], {"edit": "slice"}]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_plan_changed_by_somebody_who_knows_the_format(saved: Path, data: st.DataObject) -> None:
    """Digests are made anew: a typed error, or a model."""
    contents = {path.name: path.read_bytes() for path in saved.iterdir()}

    def change(content: dict[str, Any]) -> None:
        place: Any = content
        while True:
            key = data.draw(
                st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place))))
            )
            if isinstance(place[key], dict | list) and place[key] and data.draw(st.integers(0, 5)):
                place = place[key]
                continue
            break
        if data.draw(st.booleans()):
            place[key] = data.draw(VALUES)
        else:
            del place[key]

    edit_manifest(saved, change)
    try:
        with contextlib.suppress(ArtefactError):
            load(saved, Net)
    finally:
        for name, content in contents.items():
            (saved / name).write_bytes(content)
