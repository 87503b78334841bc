"""Whether data fit a JSON schema: as much of draft 2020-12 as `secateur.ground.plain.schema` uses, and no more."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any


def at(whole: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in part:
        part = whole["$defs"][part["$ref"].removeprefix("#/$defs/")]
    return part


TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


def faults_of(whole: Mapping[str, Any], data: Any, part: Mapping[str, Any] | None = None) -> Iterable[str]:
    """Yield what a value breaks in a schema: as much of draft 2020-12 as `schema` uses, and no other keyword."""
    part = at(whole, whole if part is None else part)
    inner = functools.partial(faults_of, whole)
    of_objects = {"properties", "required", "additionalProperties"}
    known = {
        "type",
        "enum",
        "const",
        "pattern",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "anyOf",
        "oneOf",
        "not",
    }
    assert not set(part) - known - of_objects - {"$schema", "$defs", "description", "default"}
    if "type" in part and (
        not isinstance(data, TYPES[part["type"]])
        or (isinstance(data, bool) and part["type"] in ("integer", "number"))
    ):
        yield f"{data!r} is no {part['type']}"
        return
    if "enum" in part and not any(type(x) is type(data) and x == data for x in part["enum"]):
        yield f"{data!r} is none of {part['enum']}"
    if "const" in part and part["const"] != data:
        yield f"{data!r} is not {part['const']}"
    if "not" in part:
        yield "nothing is allowed"
    if "pattern" in part and part["pattern"] not in data:
        yield f"{data!r} has no {part['pattern']}"
    if "anyOf" in part and not any(not list(inner(data, p)) for p in part["anyOf"]):
        yield f"{data!r} fits none of several"
    if "oneOf" in part and sum(not list(inner(data, p)) for p in part["oneOf"]) != 1:
        yield f"{data!r} does not fit exactly one of several"
    if isinstance(data, dict):
        for key, value in data.items():
            more = part.get("properties", {}).get(key, part.get("additionalProperties", {}))
            if more is False:
                yield f"{key} is unknown"
            else:
                yield from inner(value, more)
        yield from (f"{key} is missing" for key in part.get("required", ()) if key not in data)
    if isinstance(data, list):
        if not part.get("minItems", 0) <= len(data) <= part.get("maxItems", math.inf):
            yield f"{len(data)} entries"
        for entry, more in zip(data, part.get("prefixItems") or [part.get("items", {})] * len(data)):
            yield from inner(entry, more)
