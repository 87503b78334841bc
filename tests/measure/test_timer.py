"""The stopwatch, and the times that it keeps."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.measure import Operation, Stopwatch, timer
from secateur.measure.operation import runnable
from secateur.measure.store import Conditions, cache_folder, read_times, write_times

LINEAR = Operation("linear", 3, 4, 5)
CONV = Operation("conv2d", 2, 4, 6, 2, (9, 8), (3, 3), (2, 1), (1, 1), (1, 1))
HERE = Conditions("a processor", "2.8.0", 1, 2)


class Clock:
    """A clock that is a millisecond later whenever it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.reads / 1000


@pytest.mark.parametrize(
    ("operation", "shape"),
    [
        (LINEAR, (3, 5)),
        (CONV, (2, 6, 5, 8)),
        (Operation("conv1d", 1, 3, 2, 1, (7,), (3,), (1,), (0,), (2,)), (1, 2, 3)),
        (Operation("conv3d", 1, 2, 2, 2, (4, 4, 4), (1, 1, 1), (1,) * 3, (0,) * 3, (1,) * 3), (1, 2, 4, 4, 4)),
        (Operation("conv_transpose2d", 1, 4, 6, 2, (5, 5), (2, 2), (2, 2), (0, 0), (1, 1)), (1, 6, 10, 10)),
        (Operation("elementwise", 1000), (1000,)),
        (Operation("normalisation", 640), (1, 10, 8, 8)),
        (replace(LINEAR, dtype="bfloat16"), (3, 5)),
    ],
)  # fmt: skip
def test_operations_run_in_their_shapes(operation: Operation, shape: tuple[int, ...]) -> None:
    result = runnable(operation)()
    assert result.shape == shape
    assert str(result.dtype) == f"torch.{operation.dtype}"


def test_every_field_is_in_the_key() -> None:
    others = [
        replace(CONV, **{name: value})
        for name, value in {
            "op": "conv1d", "rows": 3, "inputs": 8, "outputs": 8, "groups": 1, "size": (9, 9), "kernel": (1, 1),
            "stride": (1, 1), "padding": (0, 0), "dilation": (2, 2), "dtype": "float64", "device": "cuda",
        }.items()
    ]  # fmt: skip
    assert len({o.key for o in (CONV, *others)}) == len(asdict(CONV)) + 1


def test_operations_are_timed_once(tmp_path: Path) -> None:
    clock = Clock()
    watch = Stopwatch(tmp_path / "times", runs=3, seconds=0, clock=clock)
    first = watch.operations([LINEAR, CONV, LINEAR], 2)
    assert first == {LINEAR: pytest.approx(1), CONV: pytest.approx(1)}
    reads = clock.reads
    assert watch.operations([CONV, LINEAR], 2) == first
    assert clock.reads == reads
    watch.operations([CONV], 3)  # another batch, another file
    assert clock.reads > reads
    assert len(list((tmp_path / "times").iterdir())) == 2


def test_a_new_operation_is_added_to_those_known(tmp_path: Path) -> None:
    watch = Stopwatch(tmp_path, runs=2, seconds=0)
    before = watch.operations([LINEAR], 2)
    after = watch.operations([LINEAR, CONV], 2)
    assert after[LINEAR] == before[LINEAR]
    (file,) = tmp_path.iterdir()
    assert set(json.loads(file.read_text())["ms"]) == {LINEAR.key, CONV.key}


def test_large_layers_are_timed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timer, "MAX_ELEMENTS", 100)
    operations = [replace(LINEAR, outputs=n) for n in (5, 10, 20, 40)]
    found = Stopwatch(tmp_path, runs=2, seconds=0, clock=Clock()).operations(operations, 3)
    assert found == {o: pytest.approx(1) for o in operations}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="Times cannot be kept"):
        assert Stopwatch(tmp_path / "file" / "times", runs=2, seconds=0).operations([LINEAR], 2)[LINEAR] > 0


def test_models_are_timed_in_turns() -> None:
    watch = Stopwatch(rounds=3, model_seconds=0, clock=Clock())
    model = nn.Linear(2, 2)
    assert watch.models([model, model], (torch.zeros(1, 2),)) == [pytest.approx(1), pytest.approx(1)]


def test_times_come_back(tmp_path: Path) -> None:
    write_times(tmp_path / "deep", HERE, {"a": 1.5})
    write_times(tmp_path / "deep", HERE, {"b": 2.5})
    assert read_times(tmp_path / "deep", HERE) == {"a": 1.5, "b": 2.5}
    others = (
        replace(HERE, cpu="b"),
        replace(HERE, torch="2.9"),
        replace(HERE, threads=2),
        replace(HERE, batch=1),
    )
    assert all(read_times(tmp_path / "deep", other) == {} for other in others)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == [HERE.file_name]  # nothing temporary is left


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: "",
        lambda data: json.dumps(data)[:-5],
        lambda data: json.dumps([1, 2]),
        lambda data: json.dumps(data | {"version": 99}),
        lambda data: json.dumps(data | {"ms": [1]}),
        lambda data: json.dumps(data | {"conditions": {"cpu": "another"}}),
        lambda data: json.dumps(data | {"ms": {"a": "x", "b": None, "c": -1, "d": True, "e": float("nan")}}),
        lambda data: "\udcff",
    ],
)
def test_a_damaged_file_is_measured_anew(tmp_path: Path, damage: object) -> None:
    write_times(tmp_path, HERE, {"a": 1.0})
    path = tmp_path / HERE.file_name
    text = damage(json.loads(path.read_text()))  # type: ignore[operator]
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_times(tmp_path, HERE) == {}
    write_times(tmp_path, HERE, {"b": 2.0})
    assert read_times(tmp_path, HERE) == {"b": 2.0}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_times(tmp_path, HERE, {"a": 1.0})

    def fails(fd: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        write_times(tmp_path, HERE, {"a": 2.0})
    assert read_times(tmp_path, HERE) == {"a": 1.0}
    assert len(list(tmp_path.iterdir())) == 1


def test_the_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "secateur" / "latency"
    assert Stopwatch().folder == cache_folder()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "secateur" / "latency"
