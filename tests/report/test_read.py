"""Whatever report.json holds: a report, or an ArtefactError that names the entry."""

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from artefacts import resign
from hypothesis import given
from hypothesis import strategies as st
from reports import blocks_report, full_report, hostile_report, sparse_report

from secateur.ground.errors import ArtefactError
from secateur.report import Approach, page, read_report
from secateur.report.read import report_from_json

STRUCTURE = blocks_report().structure
assert STRUCTURE is not None
DATA = replace(
    full_report(3),
    sparsity=sparse_report().sparsity,
    structure=replace(STRUCTURE, approach=Approach(0.2, 0.0, 1.0, 0.9)),
).to_json()


def artefact(folder: Path, report: str, recipe: str = "method: {type: SNP}\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_text(report)
    (folder / "recipe.yaml").write_text(recipe)
    resign(folder)
    return folder


WITH_BLOCKS = replace(full_report(), structure=replace(STRUCTURE, approach=Approach(0.2, 0.0, 1.0, 0.9)))


@pytest.mark.parametrize(
    "report", [full_report(), hostile_report(), WITH_BLOCKS], ids=["full", "hostile", "blocks"]
)
def test_what_was_written_is_read(report: Any, tmp_path: Path) -> None:
    recipe = json.dumps(report.recipe)  # JSON is YAML
    assert read_report(artefact(tmp_path / "a", json.dumps(report.to_json()), recipe)) == report


def test_the_recipe_is_not_written_twice() -> None:
    assert "recipe" not in full_report().to_json()


def test_what_need_not_be_there_may_be_missing() -> None:
    left_out = ("model", "curves", "refused", "frozen", "metric", "sparsity", "structure")
    old = {k: v for k, v in DATA.items() if k not in left_out}
    old["scores"] = old["latency"] = None
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


GROUP, LAYER, WEIGHT = "layer0.0.conv1", "layer0.0.conv1.weight", "layers.0.mlp.weight"


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
        (change("latency", "ratio", to=0.9), "outside of its quartiles"),
        (change("latency", "pruned", "high_ms", to=1.0), "outside of its quartiles"),
        (change("scores", "dense", to="high"), "scores.dense"),
        (change("scores", "dense", to=2.0**64), "beyond all measure"),
        (change("metric", "name", to=""), "Metric name"),
        (change("metric", "format", to="stars"), "metric.format"),
        (change("metric", "higher_is_better", to=1), "metric.higher_is_better"),
        (change("kept", "g" * 1025, to=[1, 2]), "1025 characters"),
        (change("sparsity", "after", to=10**9), "sparsity"),
        (change("sparsity", "layers", LAYER, to=[3, 2]), "keeps 3 of 2"),
        (change("sparsity", "curve", to=[[1.5, 0.9]]), "in 0..1"),
        (change("sparsity", "curve", to=[[0.5, 0.9]] * 10_001), "at most 10000 points"),
        (change("structure", "operations", to=-0.1), "out of range"),
        (change("structure", "approach", "same", to=1.1), "share of common blocks is out of range"),
        (change("structure", "approach", "dual", to=-0.1), "a residual negative"),
        (change("structure", "layers", WEIGHT, "zero", to=289), "more zero and unified blocks"),
        (change("structure", "layers", WEIGHT, "block", to="<8x1>"), "no block"),
        (change("structure", "layers", WEIGHT, "blocks", to=0), "more zero and unified blocks"),
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
    with pytest.raises(ArtefactError, match=r"no file manifest\.json"):
        read_report(tmp_path / "empty")


def test_a_file_of_very_many_values_is_refused() -> None:
    data = copy.deepcopy(DATA)
    data["kept"] = {str(n): [1, 2] for n in range(2 * 10**6)}
    with pytest.raises(ArtefactError, match="more than 5,000,000 values"):
        report_from_json(data)


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
