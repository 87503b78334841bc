from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.ground.errors import RecipeError
from secateur.recipes import text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a: [1, 2", "not YAML"),
        ("- a", "mapping"),
        ("1", "mapping"),
        ("", "mapping"),
        ("a: &x [1]\nb: *x", "line 2 has a YAML alias"),
        ("a:\n  b: 1\n  b: 2", "line 3 has the same key twice"),
        ("a: !!python/object/apply:os.system [ls]", "not YAML"),
        ("a: " + "[" * 20 + "]" * 20, "nested more than 20 levels deep"),
        ("a: .nan", "not a finite number"),
        ("a: \x00", "not YAML"),
    ],
)
def test_bad_text_is_refused(source: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        text.parse(source)


@given(st.text(max_size=80))
def test_any_text_is_a_mapping_or_a_recipe_error(source: str) -> None:
    with suppress(RecipeError):
        assert isinstance(text.parse(source), dict)


def test_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: No such file"):
        text.read(tmp_path / "none.yaml")
    (tmp_path / "large.yaml").write_text("a: " + "x" * 70_000)
    with pytest.raises(RecipeError, match="larger than 64 KiB"):
        text.read(tmp_path / "large.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="UTF-8"):
        text.read(tmp_path / "binary.yaml")
    (tmp_path / "twice.yaml").write_text("a: 1\na: 2")
    with pytest.raises(RecipeError, match=r"twice\.yaml: line 2 has the same key twice: a"):
        text.read(tmp_path / "twice.yaml")


def test_overrides_make_mappings_and_leave_the_original() -> None:
    recipe = {"budget": {"macs": 0.5}, "method": "snp"}
    found = text.override(recipe, "budget.params=null")
    assert found["budget"] == {"macs": 0.5, "params": None}
    assert text.override(recipe, "method.p=2")["method"] == {"name": "snp", "p": 2}
    assert text.override(recipe, "limits.exclude=[fc, 'a*']")["limits"] == {"exclude": ["fc", "a*"]}
    assert text.override(recipe, "output=")["output"] is None
    assert text.override(recipe, "distill={steps: 3}")["distill"] == {"steps": 3}
    assert text.override(recipe, "data.name=x")["data"] == {"name": "x"}
    assert recipe == {"budget": {"macs": 0.5}, "method": "snp"}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("budget.macs", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("budget..macs=1", "expected KEY=VALUE"),
        ("budget.macs.more=1", "'macs' is 0.5 in the recipe, which has no keys"),
        ("a=[1", r"--set a=\[1 is not YAML"),
        ("a=1\nb: 2", "not YAML"),
        ("a=*x", "alias"),
    ],
)
def test_bad_overrides(assignment: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        text.override({"budget": {"macs": 0.5}}, assignment)
