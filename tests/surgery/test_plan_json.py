"""Plans survive JSON, and nothing that is not a plan does."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.ground.errors import ArtefactError
from secateur.surgery.plan import (
    MAX_STEPS,
    Fingerprint,
    Function,
    Literal,
    Plan,
    RemoveBranch,
    Resize,
    Retrace,
    RewriteCode,
    SetAttribute,
    SliceTensor,
)
from secateur.surgery.plan_json import plan_from_json, plan_to_json

names = st.text(min_size=1, max_size=12)
indices = st.lists(st.integers(0, 40), unique=True, min_size=1).map(lambda i: tuple(sorted(i)))
settings = st.integers(-1000, 1000) | st.lists(st.integers(-9, 9), max_size=4).map(tuple)
sizes = st.builds(
    Resize,
    st.integers(0, 99),
    st.lists(st.integers(0, 5), max_size=2).map(tuple),
    st.integers(-9, 99),
    st.integers(-9, 99),
)
functions = st.builds(
    Function,
    st.lists(names, min_size=1, max_size=3).map(tuple),
    names,
    st.lists(
        st.builds(Literal, st.integers(0, 99), st.integers(-9, 99), st.integers(-1, 99)), max_size=3
    ).map(tuple),
)
edits = st.one_of(
    st.builds(
        SliceTensor,
        st.lists(names, min_size=1, max_size=3).map(tuple),
        st.integers(0, 5),
        indices,
        st.integers(41, 100),
    ),
    st.builds(SetAttribute, names, st.just("groups"), settings, settings),
    st.builds(RemoveBranch, *[st.lists(names, max_size=3).map(tuple)] * 3, st.booleans()),
    st.builds(RewriteCode, names, st.lists(functions, max_size=3).map(tuple)),
    st.builds(Retrace, names, names, st.lists(sizes, max_size=3).map(tuple)),
)
inputs = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.builds(
        lambda shape, dtype: {"tensor": shape, "dtype": dtype},
        st.lists(st.integers(0, 4), max_size=3),
        st.sampled_from(["float32", "int64", "bool"]),
    ),
    lambda inner: st.builds(lambda entries: {"tuple": entries}, st.lists(inner, max_size=3)),
    max_leaves=4,
)
steps = st.builds(
    Plan,
    st.dictionaries(names, indices | st.just(())),
    st.lists(edits, max_size=4).map(tuple),
    st.builds(Fingerprint, names, names),
    st.just({}),
    inputs.map(lambda entry: {"tuple": [{"tuple": [entry]}, {"dict": {"other": entry}}]}),
    batch_dims=st.none() | st.lists(st.none() | st.integers(0, 8), max_size=3).map(tuple),
)
plans = st.builds(replace, steps, first=st.lists(steps, max_size=2).map(tuple))


INPUTS = {"tuple": [{"tuple": [{"tensor": [2, 3], "dtype": "float32"}]}, {"dict": {"mask": None}}]}


def example() -> dict[str, Any]:
    return plan_to_json(
        Plan(
            {"a": (0, 2), "b": ()},
            (
                SliceTensor(("a.weight", "b.weight"), 0, (0, 2), 3),
                SetAttribute("a", "groups", 3, 2),
                RemoveBranch(("b",), ("a",), ("c",), True),
                RewriteCode("d", (Function(("forward", "f"), "00", (Literal(3, 4, 3),)),)),
                Retrace("c", "00", (Resize(2, (1, 0), 12, 9),)),
            ),
            Fingerprint("Net", "00"),
            example=INPUTS,
            batch_dims=(0, None),
            first=(Plan({"a": (1,)}, (SliceTensor(("a.weight",), 0, (1,), 4),), Fingerprint("Net", "0")),),
        )
    )


@given(plans)
def test_a_plan_survives_json(plan: Plan) -> None:
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan))), {}) == plan


def test_tensors_are_handed_through() -> None:
    value = torch.ones(2)
    assert plan_from_json(example(), {"a.weight": value}).tensors["a.weight"] is value


def paths(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [at, *(path for key, value in items for path in paths(value, (*at, key)))]


def at(path: tuple[Any, ...]) -> Any:
    found = example()
    for key in path:
        found = found[key]
    return found


WRONG = (None, 1.5, float("inf"), -(2**40), 2**40, {"x": 1}, [[]], True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (p, v)
        for p in paths(example())
        for v in WRONG
        if at(p) != v and p[:1] != ("example",) and (p[:1] != ("batch_dims",) or v is not None)
    ],
    ids=str,
)
def test_a_wrong_value_anywhere_is_an_artefact_error(path: tuple[Any, ...], value: Any) -> None:
    data = {"root": example()}
    target: Any = data
    for key in ("root", *path)[:-1]:
        target = target[key]
    last = ("root", *path)[-1]
    target[last] = copy.deepcopy(value)
    with pytest.raises(ArtefactError):
        plan_from_json(data["root"], {})


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        {"tuple": []},
        {"tuple": [{"tuple": [{"tensor": [2, -1], "dtype": "float32"}]}, {"dict": {}}]},
        {"tuple": [{"tuple": [{"tensor": [2**20, 2**20], "dtype": "float32"}]}, {"dict": {}}]},
        {"tuple": [{"tuple": [{"tensor": [2**14, 2**13], "dtype": "float32"}] * 3}, {"dict": {}}]},
        {"tuple": [{"tuple": [{"tensor": [2], "dtype": "object"}]}, {"dict": {}}]},
        {"tuple": [{"tuple": [{"call": "f"}]}, {"dict": {}}]},
    ],
)
def test_inputs_that_are_none(inputs: Any) -> None:
    with pytest.raises(ArtefactError, match=r"plan\.example"):
        plan_from_json(example() | {"example": inputs}, {})


def test_a_step_before_is_read_as_a_plan_and_named() -> None:
    data = example()
    data["first"][0]["edits"][0]["index"] = [4]
    with pytest.raises(ArtefactError, match=r"plan\.first\[0\]\.edits\[0\]\.index goes beyond"):
        plan_from_json(data, {})
    data = example()
    data["first"][0]["version"] = 2
    with pytest.raises(ArtefactError, match=r"plan\.first\[0\]\.version: .*, not 2"):
        plan_from_json(data, {})
    data = example()
    data["first"][0]["edits"].append(data["edits"][-1])
    with pytest.raises(ArtefactError, match=r"plan\.first\[0\]\.example must describe"):
        plan_from_json(data, {})


def test_a_chain_has_an_end_and_no_chains_in_it() -> None:
    data = example()
    data["first"] *= MAX_STEPS
    assert len(plan_from_json(data, {}).steps) == MAX_STEPS + 1
    data["first"] *= 2
    with pytest.raises(ArtefactError, match=r"plan\.first: .*at most 100 items"):
        plan_from_json(data, {})
    deep: dict[str, Any] = example()
    for _ in range(200):
        deep = example() | {"first": [deep]}
    with pytest.raises(ArtefactError, match=r"plan\.first\[0\] has an unknown entry 'first'"):
        plan_from_json(deep, {})


@pytest.mark.parametrize("dims", [[-1], [9], [True], 0, {"x": 0}, ["0"]])
def test_dimensions_of_samples_are_numbers_of_dimensions(dims: Any) -> None:
    with pytest.raises(ArtefactError, match=r"plan\.batch_dims"):
        plan_from_json(example() | {"batch_dims": dims}, {})


def test_an_unknown_key_is_named_with_the_closest_known_one() -> None:
    data = example()
    data["edits"][1]["modul"] = data["edits"][1].pop("module")
    with pytest.raises(ArtefactError, match="no entry 'module'"):
        plan_from_json(data, {})
    data = example()
    data["edits"][1]["attributes"] = 1
    with pytest.raises(ArtefactError, match=r"'attributes'\. Did you mean 'attribute'"):
        plan_from_json(data, {})


def test_a_newer_version_says_so() -> None:
    with pytest.raises(ArtefactError, match=r"version 2.*update secateur"):
        plan_from_json(example() | {"version": 2}, {})


@pytest.mark.parametrize("attribute", ["__class__", "_parameters", "a.b", "f()"])
def test_only_public_attributes_can_be_set(attribute: str) -> None:
    data = example()
    data["edits"][1]["attribute"] = attribute
    with pytest.raises(ArtefactError, match="public attribute"):
        plan_from_json(data, {})


@pytest.mark.parametrize("index", [[2, 0], [0, 0], [3], [-1], []])
def test_an_index_must_ascend_within_the_dimension(index: list[int]) -> None:
    data = example()
    data["edits"][0]["index"] = index
    with pytest.raises(ArtefactError, match=r"edits\[0\]\.index"):
        plan_from_json(data, {})
