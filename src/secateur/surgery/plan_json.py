"""The JSON form of a plan: everything but the tensors, checked entry by entry when it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
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
    MAX_STEPS,
    Count,
    Dim,
    Edit,
    Fingerprint,
    Function,
    Index,
    Name,
    Plain,
    Plan,
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
class _Step(Plain):
    """What every plan of a chain has; none of those that come first has others before it."""

    version: Annotated[Count, Field(ge=1, le=PLAN_VERSION)]
    made_for: Fingerprint
    kept: dict[Name, Index]
    edits: Annotated[tuple[Annotated[Edit, Field(discriminator="edit")], ...], FailFast()]
    example: Any = None
    batch_dims: Annotated[tuple[Dim | None, ...], Field(max_length=1024)] | None = None


@dataclass(frozen=True)
class _File(_Step):
    patterns: dict[Name, Pattern] = field(default_factory=dict)
    first: Annotated[tuple[_Step, ...], FailFast(), Field(max_length=MAX_STEPS)] = ()

    def steps(self) -> Iterator[tuple[str, _Step]]:
        """Yield where each plan of the chain stands, and what is there."""
        yield "plan", self
        for i, step in enumerate(self.first):
            yield f"plan.first[{i}]", step


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
    if plan.batch_dims is not None:
        data["batch_dims"] = plan.batch_dims
    if plan.first:
        data["first"] = [plan_to_json(step) for step in plan.first]
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
    last, *first = (_plan(step, where) for where, step in file.steps())
    try:
        patterns = {name: pattern.restored() for name, pattern in file.patterns.items()}
    except StructureError as error:
        raise ArtefactError(f"plan.patterns: {error}") from None
    return replace(last, tensors=dict(tensors), patterns=patterns, first=tuple(first))


def _plan(step: _Step, where: str) -> Plan:
    """Return a plan without its values and those before it."""
    for i, edit in enumerate(step.edits):
        if isinstance(edit, SliceTensor) and edit.index[-1] >= edit.size:
            raise ArtefactError(
                f"{where}.edits[{i}].index goes beyond the size of the dimension, {edit.size}"
            )
    example = _example(step.example, step.edits, f"{where}.example")
    return Plan(step.kept, step.edits, step.made_for, example=example, batch_dims=step.batch_dims)


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
        close = did_you_mean(str(key), {f.name for part in _PARTS for f in fields(part)} - {key})
        return f"{around} has an unknown entry {key!r:.60}.{close}"
    return f"{where}: {error['msg']:.200}, not {short(error['input'])}"


def _example(data: object, edits: tuple[Edit, ...], where: str) -> Any:
    """Check the description of the inputs: a tuple of those by position and a mapping of those by name."""
    if data is None and not any(isinstance(edit, Retrace) for edit in edits):
        return None
    match data:
        case {"tuple": [{"tuple": _}, {"dict": _}]}:
            try:
                rebuild(data, torch.device("meta"))
            except (SurgeryError, RecursionError) as error:
                raise ArtefactError(f"{where}: {error}") from None
            return data
    raise ArtefactError(f"{where} must describe arguments by position and by name, not be {short(data)}")
