"""The JSON form of a plan: everything but the tensors, checked entry by entry when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import torch
from pydantic import FailFast, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, to_jsonable_python
from torch import Tensor

from secateur.ground.checked import short
from secateur.ground.errors import ArtefactError, StructureError, SurgeryError, did_you_mean

from .example import rebuild
from .pattern_json import Pattern
from .plan import (
    Count,
    Edit,
    Fingerprint,
    Function,
    Index,
    Name,
    Plain,
    Plan,
    QuantiseLayer,
    RemoveBranch,
    Retrace,
    RewriteCode,
    SetAttribute,
    SliceTensor,
)

__all__ = ["PLAN_VERSION", "plan_from_json", "plan_to_json"]

PLAN_VERSION = 1
MOST = 1000  # faults of which the first is told; a file may be made to have millions


@dataclass(frozen=True)
class _File(Plain):
    version: Annotated[Count, Field(ge=1)]
    made_for: Fingerprint
    kept: dict[Name, Index]
    edits: Annotated[tuple[Annotated[Edit, Field(discriminator="edit")], ...], FailFast()]
    example: Any = None
    patterns: dict[Name, Pattern] = field(default_factory=dict)


_FILE = TypeAdapter(_File)
_PARTS = (
    _File,
    Fingerprint,
    SliceTensor,
    SetAttribute,
    RemoveBranch,
    RewriteCode,
    Function,
    Retrace,
    QuantiseLayer,
    Pattern,
)


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Return the plan without its tensors as dictionaries, lists, strings and integers.

    >>> plan = Plan({"fc1": (0, 2)}, (SliceTensor(("fc1.weight",), 0, (0, 2), 3),), Fingerprint("Net", "00"))
    >>> plan_to_json(plan)["edits"]
    [{'edit': 'slice', 'names': ['fc1.weight'], 'dim': 0, 'index': [0, 2], 'size': 3}]
    """
    data = {"version": PLAN_VERSION, "made_for": plan.made_for, "kept": dict(plan.kept), "edits": plan.edits}
    if plan.example is not None:
        data["example"] = plan.example
    if plan.patterns:
        data["patterns"] = {name: Pattern.of(pattern) for name, pattern in plan.patterns.items()}
    return to_jsonable_python(data)  # type: ignore[no-any-return]


def plan_from_json(data: object, tensors: Mapping[str, Tensor]) -> Plan:
    """Return the plan that `plan_to_json` wrote, with its tensors.

    Raises:
        ArtefactError: a key is missing or unknown, a value has the wrong type or is out of range, or a newer
            secateur wrote it. The message names the entry.
    """
    version = data.get("version") if isinstance(data, dict) else None
    if type(version) is int and version > PLAN_VERSION:
        raise ArtefactError(
            f"the plan has format version {version}, this secateur reads up to {PLAN_VERSION}: "
            "update secateur"
        )
    try:
        file = _FILE.validate_python(data)
    except ValidationError as error:
        if error.error_count() > MOST:
            raise ArtefactError(f"the plan has {error.error_count()} entries that are wrong") from None
        raise ArtefactError(_said(data, error.errors(include_url=False, include_context=False)[0])) from None
    for i, edit in enumerate(file.edits):
        if isinstance(edit, SliceTensor) and edit.index[-1] >= edit.size:
            raise ArtefactError(f"plan.edits[{i}].index goes beyond the size of the dimension, {edit.size}")
        if (
            isinstance(edit, QuantiseLayer)
            and edit.levels is not None
            and edit.levels.zero > edit.levels.most
        ):
            raise ArtefactError(
                f"plan.edits[{i}].levels have their zero beyond the largest level, {edit.levels.most}"
            )
    try:
        patterns = {name: pattern.restored() for name, pattern in file.patterns.items()}
    except StructureError as error:
        raise ArtefactError(f"plan.patterns: {error}") from None
    example = _example(file.example, file.edits)
    return Plan(file.kept, file.edits, file.made_for, dict(tensors), example, patterns)


def _said(data: Any, error: ErrorDetails) -> str:
    """Return the message for an entry: where it stands, what is wrong with it, and what it is."""
    around = where = "plan"
    for key in error["loc"]:  # of which some say what was tried to read, not where
        inside: Any = dict(enumerate(data)) if isinstance(data, list) else data
        if isinstance(inside, dict) and key in inside:
            around, data = where, inside[key]
            plainly = isinstance(key, str) and key.isidentifier()
            where += f".{key:.60}" if plainly else f"[{key!r:.60}]"
    if error["type"] == "missing":
        return f"{where} has no entry {key!r}"
    if error["type"] == "unexpected_keyword_argument":
        close = did_you_mean(str(key), {f.name for part in _PARTS for f in fields(part)})
        return f"{around} has an unknown entry {key!r:.60}.{close}"
    return f"{where}: {error['msg']:.200}, not {short(error['input'])}"


def _example(data: object, edits: tuple[Edit, ...]) -> Any:
    """Check the description of the inputs: a tuple of those by position and a mapping of those by name."""
    if data is None and not any(isinstance(edit, Retrace) for edit in edits):
        return None
    match data:
        case {"tuple": [{"tuple": _}, {"dict": _}]}:
            try:
                rebuild(data, torch.device("meta"))
            except (SurgeryError, RecursionError) as error:
                raise ArtefactError(f"plan.example: {error}") from None
            return data
    raise ArtefactError(f"plan.example must describe arguments by position and by name, not be {short(data)}")
