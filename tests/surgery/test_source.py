"""The source of functions: counted expressions, hashes that layout does not change, and functions made anew of it."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any

import own_code
import pytest
from own_code import FORMS
from torch import nn

from secateur.ground.errors import SurgeryError
from secateur.surgery.build import built, in_place_of, innermost, is_its_source
from secateur.surgery.callees import codes
from secateur.surgery.source import Source, parsed


def view(x: Any, heads: int = 4) -> Any:
    """Documentation, in which 4 is a word."""
    n, t = x.shape[0], x.shape[-1] // heads  # a comment with 4
    if heads == 4 and x.ndim != 3:
        return x.view(n, *[heads] * 2, -1, t, 4 * 16)
    return f"{heads + 4}"


def places(source: Source) -> list[str]:
    return [ast.unparse(source.expressions[i]) for i in sorted(source.sizes)]


def test_sizes_are_what_stands_for_a_number() -> None:
    found = places(Source.of(view))
    assert {"0", "x.shape[-1] // heads", "heads", "n", "t", "4 * 16", "4", "16", "2"} <= set(found)
    # What is called, looked into, compared or repeated in a text is none.
    assert "x.view" not in found
    assert "x.ndim" not in found
    assert "heads + 4" not in found
    assert "x" not in found
    assert found.count("4") == 1


def test_layout_comments_and_types_do_not_matter_for_the_hash() -> None:
    text = inspect.getsource(view)
    plain = text.replace("  # a comment with 4", "").replace(": Any", "").replace(" -> Any", "")
    plain = plain.replace('    """Documentation, in which 4 is a word."""\n', "").replace(
        "n, t = ", "n, t    = "
    )
    digests = [Source(view, t, parsed(t)).digest for t in (text, plain, textwrap.indent(plain, "    "))]
    assert len(set(digests)) == 1
    for other in (
        text.replace("4 * 16", "4 * 8"),
        text.replace("n, *", "t, *"),
        text.replace("heads: int = 4", "heads: int = 3"),
    ):
        assert Source(view, other, parsed(other)).digest != digests[0]


def test_integers_go_where_they_belong() -> None:
    source = Source.of(view)
    places_of = {ast.unparse(source.expressions[i]): i for i in source.sizes}
    text = source.with_numbers({places_of["4 * 16"]: 48, places_of["x.shape[-1] // heads"]: 7}, {})
    assert "x.view(n, *[heads] * 2, -1, t, 48)" in text
    assert "n, t = x.shape[0], 7  # a comment with 4" in text
    with pytest.raises(SurgeryError, match="overlap"):
        source.with_numbers({places_of["4 * 16"]: 48, places_of["16"]: 8}, {})
    for number in (len(source.expressions), -1, source.numbers[source.tree.body[2].test]):  # type: ignore[attr-defined]
        with pytest.raises(SurgeryError, match="has no size"):
            source.with_numbers({number: 1}, {})


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_what_is_made_of_the_source_is_what_was_there(form: type[nn.Module]) -> None:
    for code in codes(form).values():
        function = code.source.function
        assert is_its_source(function, code.source.tree)
        again = built(function, code.source.tree, {}, "again")
        assert again.__code__.co_freevars == function.__code__.co_freevars
        assert again.__globals__ is function.__globals__
        assert (again.__defaults__, again.__qualname__) == (function.__defaults__, function.__qualname__)


def outer(scale: int) -> Callable[[int], int]:
    def inner(x: int, *, offset: int = 2) -> int:
        return inner(x - 1) + scale if x else offset

    return inner


def test_closures_and_defaults_stay() -> None:
    function = outer(5)
    assert isinstance(function, FunctionType)
    source = Source.of(function)
    assert built(function, source.tree, {}, "again")(3) == function(3) == 17
    tree = parsed(source.text.replace("+ scale", "+ 1"))
    assert built(function, tree, {}, "again")(0) == 2
    assert built(function, tree, {"inner": lambda x: 10}, "again")(3) == 11


def test_decorators_stay_and_those_that_hide_are_refused() -> None:
    def plus(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def wrapper(*args: int) -> int:
            return function(*args) + 100

        return wrapper

    @plus
    @plus
    def two(x: int) -> int:
        return x * 2

    inner = innermost(two)
    assert inner is not None
    new = built(inner, parsed(Source.of(inner).text.replace("* 2", "* 3")), {}, "again")
    assert in_place_of(two, inner, new)(1) == 203
    assert two(1) == 202
    for hidden in (functools.lru_cache(inner), functools.partial(inner, 1)):
        with pytest.raises(SurgeryError, match="decorator"):
            in_place_of(hidden, inner, new)


def test_a_file_that_changed_is_noticed() -> None:
    source = Source.of(own_code.cut)
    assert is_its_source(own_code.cut, source.tree)
    assert not is_its_source(own_code.cut, parsed(source.text.replace("transpose(1, 2)", "transpose(1, 3)")))
    assert not is_its_source(own_code.cut, parsed(source.text.replace("reshape", "view")))


@pytest.mark.parametrize("thing", [len, eval("lambda x: x"), own_code.Hidden.forward])
def test_what_has_no_source(thing: Any) -> None:
    with pytest.raises(SurgeryError, match="source of"):
        Source.of(thing)
