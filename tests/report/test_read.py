"""Whatever report.json holds: a report, or an ArtefactError that names the entry."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import full_report, hostile_report

from secateur.ground.errors import ArtefactError
from secateur.report import page, read_report
from secateur.report.read import report_from_json

DATA = json.loads(json.dumps(full_report(3).to_json()))


def artefact(folder: Path, report: str, recipe: str = "method: {type: SNP}\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_text(report)
    (folder / "recipe.yaml").write_text(recipe)
    return folder


@pytest.mark.parametrize("report", [full_report(), hostile_report()], ids=["full", "hostile"])
def test_what_was_written_is_read(report: Any, tmp_path: Path) -> None:
    recipe = json.dumps(report.recipe)  # JSON is YAML
    assert read_report(artefact(tmp_path / "a", json.dumps(report.to_json()), recipe)) == report


def test_the_recipe_is_not_written_twice() -> None:
    assert "recipe" not in full_report().to_json()


def test_a_report_of_an_older_version_is_read() -> None:
    old = {k: v for k, v in DATA.items() if k not in ("model", "curves", "refused", "frozen")}
    old["accuracy"] = old["latency"] = None
    report = report_from_json(old)
    assert report.curves == {}
    assert "relative loss" not in page({"old": report})


def change(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def edit(data: Any) -> None:
        for step in path[:-1]:
            data = data[step]
        data[path[-1]] = to

    return edit


def missing(*path: str) -> Callable[[dict[str, Any]], None]:
    def edit(data: Any) -> None:
        for step in path[:-1]:
            data = data[step]
        del data[path[-1]]

    return edit


GROUP = "layer0.0.conv1"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (missing("before"), "before"),
        (missing("before", "macs"), "before.macs"),
        (change("befroe", to=1), "befroe"),
        (change("environment", "host", to="x"), "environment.host"),
        (change("before", "macs", to="1"), "before.macs"),
        (change("before", "macs", to=-1), "negative"),
        (change("before", "macs", to=10**30), "beyond all measure"),
        (change("seconds", "trace", to=1e300), "beyond all measure"),
        (change("seconds", "trace", to=-1), "seconds"),
        (change("method", to="x" * 10_001), "10001 characters"),
        (change("method", to="\ud800"), "Unicode"),
        (change("recipe", to={}), "recipe"),
        (change("kept", GROUP, to=[17, 16]), "17 of 16"),
        (change("kept", GROUP, to=[0, 0]), "0 of 0"),
        (change("kept", GROUP, to=[8]), f"kept.{GROUP}"),
        (change("curves", GROUP, "loss", to=[0.0]), "curves"),
        (change("curves", GROUP, to={"units": [0, 2, 1], "loss": [1.0, 0.5, 0.0]}), "ascend"),
        (change("curves", GROUP, to={"units": [0], "loss": [-1.0]}), "ascend"),
        (change("latency", "dense", "median_ms", to=0), "positive"),
        (change("latency", "batch", to=0), "positive"),
    ],
)
def test_an_entry_that_is_wrong_is_named(edit: Callable[[Any], None], message: str) -> None:
    data = copy.deepcopy(DATA)
    edit(data)
    with pytest.raises(ArtefactError, match=re.escape(message)) as caught:
        report_from_json(data)
    assert "update secateur" in str(caught.value)


@pytest.mark.parametrize(
    ("report", "recipe"),
    [
        ("", "a: 1"),
        ("[]", "a: 1"),
        ('{"method": NaN}', "a: 1"),
        ('{"seed": 1e999}', "a: 1"),
        ('{"seed": 1, "seed": 1}', "a: 1"),
        ("[" * 5000, "a: 1"),
        (json.dumps(DATA), "[1, 2]"),
        (json.dumps(DATA), "a: .inf"),
        (json.dumps(DATA), "a: !!timestamp 2020-01-01"),
        (json.dumps(DATA), "a: !!python/object:os.system {}"),
        (json.dumps(DATA), "a: &x 1\nb: *x"),
    ],
)
def test_hostile_files_are_one_clear_error(report: str, recipe: str, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError):
        read_report(artefact(tmp_path / "a", report, recipe))


def test_a_folder_without_a_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no artefact"):
        read_report(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtefactError, match=r"no file recipe\.yaml"):
        read_report(tmp_path / "empty")


def places(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path] * bool(path) + [p for key, value in inner for p in places(value, (*path, key))]


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.lists(st.integers(), max_size=3),
    st.just({}),
)


@given(place=st.sampled_from(places(DATA)), value=values)
def test_any_other_value_anywhere_makes_a_page_or_one_clear_error(
    place: tuple[str | int, ...], value: Any
) -> None:
    data = copy.deepcopy(DATA)
    change(*place, to=value)(data)
    try:
        report = report_from_json(data)
    except ArtefactError:
        return
    assert page({"a": report}).startswith("<!doctype html>")
    page({"a": report, "b": full_report(1)}).encode()
