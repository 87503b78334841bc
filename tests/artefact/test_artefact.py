"""An artefact comes back bit for bit; anything else on the disk is a clear error, and saving never does half."""

import contextlib
import json
import multiprocessing
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from artefacts import resign
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur as sc
import secateur.artefact.files as files
import secateur.ground.files as whole
from secateur.artefact import load, read, save
from secateur.artefact.files import check_output, manifest_of
from secateur.artefact.manifest import entries_from_json
from secateur.ground.errors import ArtefactError
from secateur.surgery import fingerprint
from secateur.surgery.apply import apply
from secateur.surgery.plan import Plan, RemoveBranch, SliceTensor

RECIPE = {"model": "net", "budget": {"macs": 0.5}}
REPORT = {"accuracy": [0.9, 0.89]}
DEAD = f"{whole._machine()}-999999999-1-0123456789ab"  # what names the partial files of a process that is no more


class Net(nn.Module):
    def __init__(self, hidden: int = 5) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, hidden, 3)
        self.b = nn.Conv2d(3, hidden, 3)
        self.b.weight = self.a.weight
        self.norm = nn.BatchNorm2d(hidden)
        self.branch = nn.Conv2d(hidden, hidden, 1)
        self.register_buffer("gain", torch.rand(hidden), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x) + self.b(x)) * self.gain[:, None, None]
        return x + self.branch(x)


class Other(Net):
    pass


def plan(model: nn.Module) -> Plan:
    kept = (0, 2, 4)
    names = ("a.bias", "b.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "gain")
    edits = (
        SliceTensor(("a.weight", "b.weight"), 0, kept, 5),
        *(SliceTensor((name,), 0, kept, 5) for name in names),
        RemoveBranch(("branch",), ()),
    )
    return Plan({"a": kept}, edits, fingerprint(model), {"branch.value": torch.randn(1, 3, 1, 1)})


@pytest.fixture
def small() -> tuple[nn.Module, Plan]:
    torch.manual_seed(0)
    model = Net().eval()
    made = plan(model)
    return apply(model, made), made


@pytest.fixture
def saved(tmp_path: Path, small: tuple[nn.Module, Plan]) -> Path:
    return save(tmp_path / "artefact", *small, RECIPE, REPORT)


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


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads((folder / "plan.json").read_text())
    change(data)
    (folder / "plan.json").write_text(json.dumps(data))
    resign(folder)


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


@pytest.mark.parametrize("bad", [{"a": float("nan")}, {"a": object()}, {"a": {1, 2}}])
def test_what_is_not_plain_data_is_refused_before_anything_is_written(
    tmp_path: Path, small: tuple[nn.Module, Plan], bad: dict[str, Any]
) -> None:
    for recipe, report, name in ((bad, {}, "recipe.yaml"), ({}, bad, "report.json")):
        with pytest.raises(ArtefactError, match=f"{name} cannot be written"):
            save(tmp_path / "a", *small, recipe, report)
    assert list(tmp_path.iterdir()) == []


def test_an_older_artefact_is_replaced_as_a_whole(saved: Path, small: tuple[nn.Module, Plan]) -> None:
    save(saved, *small, {"second": True}, {})
    assert read(saved).recipe == {"second": True}
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("fail", ["write", "fsync", "rename"])
def test_a_save_that_fails_leaves_the_older_artefact(
    saved: Path, small: tuple[nn.Module, Plan], monkeypatch: pytest.MonkeyPatch, fail: str, exchange: bool
) -> None:
    def refuse(*args: object) -> bool:
        raise OSError(28, "disk full")

    rename = Path.rename

    def rename_or_fail(self: Path, target: Path) -> Path:
        return rename(self, target) if self == saved or self.name.endswith(".older") else refuse()  # type: ignore[return-value]

    if not exchange:
        monkeypatch.setattr(whole, "_exchange", lambda *_: False)
    if fail == "fsync":
        monkeypatch.setattr(os, "fsync", refuse)
    elif fail == "write":
        monkeypatch.setattr(sys.modules["secateur.artefact.save"], "write", refuse)
    elif exchange:
        monkeypatch.setattr(whole, "_exchange", refuse)
    else:
        monkeypatch.setattr(Path, "rename", rename_or_fail)
    with pytest.raises(ArtefactError, match="cannot be written: disk full"):
        save(saved, *small, {"second": True}, {})
    monkeypatch.undo()
    assert read(saved).recipe == RECIPE
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_kill_between_the_renames_loses_nothing(saved: Path, small: tuple[nn.Module, Plan]) -> None:
    aside = saved.with_name(f".{saved.name}.{DEAD}.older")
    saved.rename(aside)
    with pytest.raises(ArtefactError, match="no artefact"):  # as if it was deleted after a save that was done
        read(saved)
    aside.with_suffix(".partial").mkdir()
    assert read(saved).recipe == RECIPE
    save(saved, *small, {"second": True}, {})
    assert read(saved).recipe == {"second": True}
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_nothing_but_an_artefact_is_overwritten(tmp_path: Path, small: tuple[nn.Module, Plan]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtefactError, match="is not an artefact and is not overwritten"):
        save(tmp_path, *small, {}, {})
    with pytest.raises(ArtefactError, match="is a file"):
        save(tmp_path / "thesis.txt", *small, {}, {})
    saved = save(tmp_path / "a", *small, {}, {})
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(ArtefactError, match=r"holds 'notes\.txt'"):
        save(saved, *small, {}, {})
    assert (saved / "notes.txt").read_text() == "mine"


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


def test_a_place_is_checked_before_anything_is_done(tmp_path: Path, saved: Path) -> None:
    before = sorted(tmp_path.iterdir())
    check_output(saved)
    check_output(tmp_path / "deep" / "new")
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "new", tmp_path, tmp_path / ("o" * 300)):
        with pytest.raises(ArtefactError, match=r"is a file|cannot be written|is not an artefact"):
            check_output(place)


def test_page_and_card_are_checked_and_replaced(tmp_path: Path, small: tuple[nn.Module, Plan]) -> None:
    for _ in range(2):
        folder = save(tmp_path / "a", *small, RECIPE, REPORT, page="<p>", card="# Net")
    assert (folder / "README.md").read_text() == "# Net"
    (folder / "README.md").write_text("# Not")
    with pytest.raises(ArtefactError, match=r"README\.md was changed"):
        read(folder)


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


def _save_for_ever(folder: Path, count: int) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    made = plan(model)
    small = apply(model, made)
    for number in range(count):
        save(folder, small, made, {"number": number}, {"number": number})


def test_readers_and_writers_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    _save_for_ever(tmp_path / "a", 1)
    writers = [context.Process(target=_save_for_ever, args=(tmp_path / "a", 25)) for _ in range(2)]
    for process in writers:
        process.start()
    reads = 0
    while any(process.is_alive() for process in writers):
        artefact = read(tmp_path / "a")
        assert artefact.recipe == artefact.report  # of one save
        reads += 1
    for process in writers:
        process.join()
    assert [process.exitcode for process in writers] == [0, 0]
    assert reads
    assert os.listdir(tmp_path) == ["a"]


def test_a_killed_save_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for delay in (0.0, 0.011, 0.023, 0.037):
        _save_for_ever(tmp_path / "a", 1)
        process = context.Process(target=_save_for_ever, args=(tmp_path / "a", 10_000))
        process.start()
        time.sleep(delay)
        process.kill()
        artefact = read(tmp_path / "a")
        assert artefact.recipe == artefact.report
        process.join()
        _save_for_ever(tmp_path / "a", 1)
        assert os.listdir(tmp_path) == ["a"]


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


def test_state_that_is_not_a_tensor_is_refused(tmp_path: Path, small: tuple[nn.Module, Plan]) -> None:
    class Extra(Net):
        def get_extra_state(self) -> object:
            return {"a": 1}

        def set_extra_state(self, state: object) -> None:
            pass

    with pytest.raises(ArtefactError, match="only tensors"):
        save(tmp_path / "a", Extra(), small[1], {}, {})
