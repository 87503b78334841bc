"""JSON and YAML are read strictly, by the reader in C and the one in Python alike; what is written is read again."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from secateur.ground import documents
from secateur.ground.documents import MAX_YAML, parse_json, parse_yaml, to_yaml
from secateur.ground.errors import ArtefactError, RecipeError


@pytest.fixture(params=["in C", "in Python"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in Python":
        monkeypatch.setattr(documents, "READER", yaml.SafeLoader)
    elif not yaml.__with_libyaml__:
        pytest.skip("PyYAML was installed without its parser in C")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "levels deep|not JSON"),
        ("[" * 65 + "]" * 65, "more than 64 levels deep"),
        ('{"a": NaN}', "holds NaN"),
        ("[-Infinity]", "holds -Infinity"),
        ("[1e999]", "1e999, which is too large"),
        ('{"a": 1, "a": 2}', "same key twice"),
        ("{", "perhaps truncated"),
        ("1" * 5000, "not JSON"),
        ('["\\ud800"]', "not JSON"),
        ('{"\\ud800": 1}', "not JSON"),
        ('"\\udfff"', "not JSON"),
    ],
    ids=lambda text: text[:20],
)
def test_json_is_strict(text: str, message: str) -> None:
    with pytest.raises(ArtefactError, match=message) as caught:
        parse_json(text, "report.json")
    assert str(caught.value).startswith("report.json ")
    with pytest.raises(RecipeError):
        parse_json(text, "report.json", RecipeError)


def test_json_as_deep_as_may_be() -> None:
    assert parse_json("[" * 64 + "]" * 64, "a") == json.loads("[" * 64 + "]" * 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: [*x, *x]", "line 2 has a YAML alias: write it out"),
        ("a: !!python/object/apply:os.system [ls]", "line 1 is not YAML of plain data: .*os.system"),
        ("a: !!set {b}", "tag"),
        ("a: !!binary aGk=", "tag"),
        ("a: !!timestamp 2001-01-01", "tag"),
        ("!!str a: 1", "tag"),
        ("a: ! 1", "tag"),
        ("%TAG ! tag:x,1:\n--- !y 1", "tag"),
        ("[" * 65 + "]" * 65, "more than 64 levels deep"),
        ("[" * 100_000, "deep|depth"),
        ("- " * 100_000, "more than 64 levels deep"),
        ("a: [", "not YAML"),
        ("a: \x00", "not YAML"),
        ("a: \ud800", "not YAML"),
        ('a: "\\ud800"', "not YAML"),
        ("a:\n  b: 1\n  b: 2", "line 3 has the same key twice: b"),
        ("1: 1\n'1': 2", "same key twice"),
        ("{[1]: 2}", "line 1 has a key that is no text"),
        ("? {a: 1}\n: 2", "a key that is no text"),
        ("a: .nan", "holds .nan, which is not a finite number"),
        ("a: -.INF", "not a finite number"),
        ("a: 1e999", "not a finite number"),
        ("a: " + "1" * 5000, "not YAML"),
        ("--- 1\n--- 2", "line 2 begins another document"),
        ("x" * (MAX_YAML + 1), "more than 1048576 characters"),
    ],
    ids=lambda text: text[:20],
)
def test_yaml_is_plain(reader: None, text: str, message: str) -> None:
    with pytest.raises(ArtefactError, match=message) as caught:
        parse_yaml(text, "recipe.yaml")
    assert str(caught.value).startswith("recipe.yaml")
    assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError):
        parse_yaml(text, "recipe.yaml", RecipeError)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# nothing", None),
        ("[null, ~, Null]", [None, None, None]),
        ("a:\nb: {c, d: }", {"a": None, "b": {"c": None, "d": None}}),
        ("[true, True, FALSE]", [True, True, False]),
        ("[yes, no, on, off, y]", ["yes", "no", "on", "off", "y"]),
        ("[12, +1, -0, 017, 0o17, 0x1F]", [12, 1, 0, 17, 15, 31]),
        ("[1e-3, 1.5, .5, 5., -1E3, +0.1]", [0.001, 1.5, 0.5, 5.0, -1000.0, 0.1]),
        ("[1:30, 190:20:30, 1_000, 2024-01-01, 0b1]", ["1:30", "190:20:30", "1_000", "2024-01-01", "0b1"]),
        ("['1', \"true\", 'null', |-\n x]", None),
        ("{0: a, 1.5: b, true: c, null: d, .inf: e, <<: f}", None),
        ("a: &x 1", {"a": 1}),
        ("--- {a: 1}\n...", {"a": 1}),
        ('{"a": ["\\u00e9", -1.0e+2]}', {"a": ["é", -100.0]}),
    ],
    ids=lambda text: str(text)[:20],
)
def test_yaml_is_read_by_its_core_schema(reader: None, text: str, value: Any) -> None:
    if text.startswith("['1'"):
        text, value = "- '1'\n- \"true\"\n- 'null'\n- |-\n  1\n", ["1", "true", "null", "1"]
    if text.startswith("{0"):  # keys are texts however they look
        value = {"0": "a", "1.5": "b", "true": "c", "null": "d", ".inf": "e", "<<": "f"}
    found = parse_yaml(text, "a")
    assert found == value
    assert repr(found) == repr(value)  # types too


def test_the_depth_may_be_another(reader: None) -> None:
    assert parse_yaml("a: [1]", "a", depth=2) == {"a": [1]}
    with pytest.raises(ArtefactError, match="more than 2 levels deep"):
        parse_yaml("a: [[1]]", "a", depth=2)


def test_many_digits_of_base_60_are_a_text(reader: None) -> None:
    text = ":".join(["1"] * 100_000)
    assert parse_yaml(f'["{text}", {text}]', "a") == [text, text]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.from_regex(
    r"[-+.0-9exoinfatrudlsyNO:_~]{0,6}", fullmatch=True
)
DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(TEXTS, DATA, max_size=3))
def test_what_is_written_is_read_again(data: dict[str, Any]) -> None:
    text = to_yaml(data)
    assert parse_yaml(text, "a") == data
    assert yaml.safe_load(text) == data  # by readers of YAML 1.1 too
    assert parse_json(json.dumps(data), "a") == data


@given(st.text(max_size=60))
def test_any_text_is_data_or_one_line(text: str) -> None:
    for parse in (parse_json, parse_yaml):
        try:
            data = parse(text, "a")
        except ArtefactError as error:
            message = str(error)
        else:
            assert json.loads(json.dumps(data, allow_nan=False)) == data
            continue
        assert "\n" not in message
