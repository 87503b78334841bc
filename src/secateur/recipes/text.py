"""From the text of a recipe to plain data, and single values of it set from outside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.ground.documents import parse_yaml
from secateur.ground.errors import RecipeError

__all__ = ["override", "parse", "read"]

MAX_BYTES = 64 * 1024
MAX_DEPTH = 20
SHORTHANDS = ("model", "data", "method")  # "model: NAME" is short for "model: {name: NAME}"

FLAT = ("limits.keep.",)  # whose keys are module paths, with dots of their own


def read(path: Path) -> dict[str, Any]:
    """Read a recipe file of at most 64 KiB.

    Raises:
        RecipeError: it is missing, too large, or not YAML.
    """
    try:
        with path.open("rb") as f:
            data = f.read(MAX_BYTES + 1)
    except OSError as e:
        raise RecipeError(f"Cannot read the recipe {path}: {e.strerror}.") from e
    if len(data) > MAX_BYTES:
        raise RecipeError(f"{path} is larger than {MAX_BYTES // 1024} KiB: not a recipe.")
    try:
        return parse(data.decode(), str(path))
    except UnicodeDecodeError as e:
        raise RecipeError(f"{path} is not UTF-8 text.") from e


def parse(text: str, name: str = "Recipe") -> dict[str, Any]:
    """Parse a recipe's text to a mapping; `name` is what messages call it.

    Raises:
        RecipeError: it is not YAML of plain data (see `secateur.ground.documents`), or not a mapping.

    >>> parse("budget: {macs: 0.5}")
    {'budget': {'macs': 0.5}}
    """
    data = parse_yaml(text, name, RecipeError, MAX_DEPTH)
    if not isinstance(data, dict):
        raise RecipeError(f"{name}: expected a mapping of keys such as 'model', 'data' and 'budget'.")
    return data


def override(recipe: Mapping[str, Any], assignment: str) -> dict[str, Any]:
    """Return a copy with one value set, as ``--set`` does; the value is YAML and null removes it.

    Raises:
        RecipeError: it is not of the form key.key=value, or leads through a value that is no mapping.

    >>> override({"budget": {"macs": 0.5}}, "budget.macs=0.4")
    {'budget': {'macs': 0.4}}
    >>> override({"model": "zoo:resnet20"}, "model.weights=a.safetensors")
    {'model': {'name': 'zoo:resnet20', 'weights': 'a.safetensors'}}
    >>> override({}, "limits.keep.layer1.*=0.75")
    {'limits': {'keep': {'layer1.*': 0.75}}}
    >>> override({"then": [{"method": "admm"}]}, "then.0.method.zero=0.8")
    {'then': [{'method': {'name': 'admm', 'zero': 0.8}}]}
    """
    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    for flat in FLAT:
        if path.strip().startswith(flat) and len(path.strip()) > len(flat):
            keys = [*flat.split(".")[:-1], path.strip().removeprefix(flat)]
    if not equals or not all(keys):
        raise RecipeError(f"--set {assignment}: expected KEY=VALUE, for instance budget.macs=0.4.")
    value = parse_yaml(text, f"--set {assignment}", RecipeError, MAX_DEPTH)
    return _set(recipe, keys, value, assignment, top=True)


def _set(data: Mapping[str, Any], keys: list[str], value: Any, assignment: str, top: bool) -> dict[str, Any]:
    key, *rest = keys
    if not rest:
        return {**data, key: value}
    inner = data.get(key, {})
    if isinstance(inner, list):
        place, *rest = rest
        if not rest or place not in map(str, range(len(inner))) or not isinstance(inner[int(place)], dict):
            raise RecipeError(
                f"--set {assignment}: {key!r} is a list of {len(inner)} in the recipe: name an entry by its number, "
                f"from 0, and a key of it, as {key}.0.KEY=VALUE."
            )
        changed = _set(inner[int(place)], rest, value, assignment, top=True)
        return {**data, key: [*inner[: int(place)], changed, *inner[int(place) + 1 :]]}
    if top and key in SHORTHANDS and isinstance(inner, str):
        inner = {"name": inner}
    if not isinstance(inner, dict):
        raise RecipeError(f"--set {assignment}: {key!r} is {inner!r} in the recipe, which has no keys.")
    return {**data, key: _set(inner, rest, value, assignment, top=False)}
