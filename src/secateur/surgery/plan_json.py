"""The JSON form of a plan: everything but the tensors, checked entry by entry when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from secateur.ground.checked import (
    MAX_DIMS,
    MAX_SIZE,
    MAX_TUPLE,
    index,
    integer,
    keys,
    listed,
    mapping,
    module_path,
    named,
    setting,
    short,
)
from secateur.ground.errors import ArtefactError, SurgeryError

from .example import rebuild
from .pattern_json import pattern_from_json, pattern_to_json
from .plan import (
    Edit,
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

__all__ = ["PLAN_VERSION", "plan_from_json", "plan_to_json"]

PLAN_VERSION = 1


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Return the plan without its tensors as dictionaries, lists, strings and integers.

    >>> plan = Plan({"fc1": (0, 2)}, (SliceTensor(("fc1.weight",), 0, (0, 2), 3),), Fingerprint("Net", "00"))
    >>> plan_to_json(plan)["edits"]
    [{'edit': 'slice', 'names': ['fc1.weight'], 'dim': 0, 'index': [0, 2], 'size': 3}]
    """
    return {
        "version": PLAN_VERSION,
        "made_for": {"model": plan.made_for.model, "digest": plan.made_for.digest},
        "kept": {group: list(units) for group, units in plan.kept.items()},
        "edits": [_edit_to_json(edit) for edit in plan.edits],
        **({} if plan.example is None else {"example": plan.example}),
        **({} if plan.batch_dims is None else {"batch_dims": list(plan.batch_dims)}),
        **({"first": [plan_to_json(step) for step in plan.first]} if plan.first else {}),
        **({"patterns": {n: pattern_to_json(p) for n, p in plan.patterns.items()}} if plan.patterns else {}),
    }


def plan_from_json(data: object, tensors: Mapping[str, Tensor]) -> Plan:
    """Return the plan that `plan_to_json` wrote, with its tensors.

    Raises:
        ArtefactError: a key is missing or unknown, a value has the wrong type or is out of range, or a newer
            secateur wrote it. The message names the entry.
    """
    first = listed(mapping(data, "plan").get("first", []), "plan.first", _step)
    return replace(_step(data, "plan", "patterns", "first"), tensors=dict(tensors), first=first)


def _step(data: object, where: str, *others: str) -> Plan:
    """Return a plan without its tensors and the plans before it; `others` are entries that only the last may have."""
    version = integer(mapping(data, where).get("version"), f"{where}.version", 1)
    if version > PLAN_VERSION:
        raise ArtefactError(
            f"the plan has format version {version}, this secateur reads up to {PLAN_VERSION}: "
            "update secateur"
        )
    entries = keys(
        data, where, "version", "made_for", "kept", "edits", optional=("example", "batch_dims", *others)
    )
    made_for = keys(entries["made_for"], f"{where}.made_for", "model", "digest")
    kept = mapping(entries["kept"], f"{where}.kept")
    patterns = mapping(entries.get("patterns", {}), f"{where}.patterns")
    edits = listed(entries["edits"], f"{where}.edits", _edit_from_json)
    return Plan(
        kept={
            named(group, f"a group of {where}.kept"): index(
                units, f"{where}.kept[{group!r}]", MAX_SIZE, empty=True
            )
            for group, units in kept.items()
        },
        edits=edits,
        made_for=Fingerprint(
            named(made_for["model"], f"{where}.made_for.model"),
            named(made_for["digest"], f"{where}.made_for.digest"),
        ),
        example=_example(entries.get("example"), edits, where),
        batch_dims=_batch_dims(entries.get("batch_dims"), f"{where}.batch_dims"),
        patterns={
            named(name, f"a parameter of {where}.patterns"): pattern_from_json(
                pattern, f"{where}.patterns[{name!r:.60}]"
            )
            for name, pattern in patterns.items()
        },
    )


def _batch_dims(data: object, where: str) -> tuple[int | None, ...] | None:
    if data is None:
        return None
    return listed(data, where, lambda entry, at: None if entry is None else integer(entry, at, 0, MAX_DIMS))


def _example(data: object, edits: tuple[Edit, ...], where: str) -> Any:
    """Check the description of the inputs: a tuple of those by position and a mapping of those by name."""
    if data is None and not any(isinstance(edit, Retrace) for edit in edits):
        return None
    match data:
        case {"tuple": [{"tuple": _}, {"dict": _}]}:
            try:
                rebuild(data, torch.device("meta"))
            except (SurgeryError, RecursionError) as error:
                raise ArtefactError(f"{where}.example: {error}") from None
            return data
    raise ArtefactError(
        f"{where}.example must describe arguments by position and by name, not be {short(data)}"
    )


def _edit_to_json(edit: Edit) -> dict[str, Any]:
    match edit:
        case SliceTensor(names, dim, index, size):
            return {"edit": "slice", "names": list(names), "dim": dim, "index": list(index), "size": size}
        case SetAttribute(module, attribute, old, new):
            return {"edit": "set", "module": module, "attribute": attribute, "old": old, "new": new}
        case RemoveBranch(constants, removed, skipped, written_out):
            return {
                "edit": "remove_branch",
                "constants": list(constants),
                "removed": list(removed),
                "skipped": list(skipped),
                "written_out": written_out,
            }
        case RewriteCode(module, functions):
            written = [
                {
                    "path": list(f.path),
                    "digest": f.digest,
                    "literals": [[n.place, n.old, n.new] for n in f.literals],
                }
                for f in functions
            ]
            return {"edit": "rewrite", "module": module, "functions": written}
        case Retrace(module, digest, sizes):
            rows = [[s.call, list(s.place), s.old, s.new] for s in sizes]
            return {"edit": "retrace", "module": module, "digest": digest, "sizes": rows}


def _edit_from_json(data: object, where: str) -> Edit:
    kind = mapping(data, where).get("edit")
    if kind == "slice":
        entry = keys(data, where, "edit", "names", "dim", "index", "size")
        size = integer(entry["size"], f"{where}.size", 1)
        names = listed(entry["names"], f"{where}.names", named)
        if not names:
            raise ArtefactError(f"{where}.names is empty")
        return SliceTensor(
            names,
            integer(entry["dim"], f"{where}.dim", 0, MAX_DIMS),
            index(entry["index"], f"{where}.index", size),
            size,
        )
    if kind == "set":
        entry = keys(data, where, "edit", "module", "attribute", "old", "new")
        attribute = named(entry["attribute"], f"{where}.attribute")
        if not attribute.isidentifier() or attribute.startswith("_"):
            raise ArtefactError(f"{where}.attribute is {attribute!r}, which is not a public attribute name")
        return SetAttribute(
            module_path(entry["module"], f"{where}.module"),
            attribute,
            setting(entry["old"], f"{where}.old"),
            setting(entry["new"], f"{where}.new"),
        )
    if kind == "remove_branch":
        entry = keys(data, where, "edit", "constants", "removed", "skipped", "written_out")
        if not isinstance(entry["written_out"], bool):
            raise ArtefactError(f"{where}.written_out must be true or false")
        return RemoveBranch(
            listed(entry["constants"], f"{where}.constants", named),
            listed(entry["removed"], f"{where}.removed", named),
            listed(entry["skipped"], f"{where}.skipped", named),
            entry["written_out"],
        )
    if kind == "rewrite":
        entry = keys(data, where, "edit", "module", "functions")
        return RewriteCode(
            module_path(entry["module"], f"{where}.module"),
            listed(entry["functions"], f"{where}.functions", _function),
        )
    if kind == "retrace":
        entry = keys(data, where, "edit", "module", "digest", "sizes")
        return Retrace(
            module_path(entry["module"], f"{where}.module"),
            named(entry["digest"], f"{where}.digest"),
            listed(entry["sizes"], f"{where}.sizes", _resize),
        )
    known = "'slice', 'set', 'remove_branch', 'rewrite' and 'retrace'"
    raise ArtefactError(f"{where}.edit is {short(kind)}; known are {known}")


def _function(data: object, where: str) -> Function:
    entry = keys(data, where, "path", "digest", "literals")
    path = listed(entry["path"], f"{where}.path", named)
    literals = listed(entry["literals"], f"{where}.literals", _literal)
    if not 0 < len(path) <= MAX_DIMS:
        raise ArtefactError(f"{where}.path has {len(path)} entries, 1 to {MAX_DIMS} are allowed")
    return Function(path, named(entry["digest"], f"{where}.digest"), literals)


def _literal(data: object, where: str) -> Literal:
    if not isinstance(data, list) or len(data) != 3:
        raise ArtefactError(f"{where} must be a list of place, old and new size, not {short(data)}")
    place, old, new = data
    return Literal(
        integer(place, f"{where}[0]", 0),
        integer(old, f"{where}[1]", -MAX_SIZE),
        integer(new, f"{where}[2]", -1),
    )


def _resize(data: object, where: str) -> Resize:
    if not isinstance(data, list) or len(data) != 4:
        raise ArtefactError(f"{where} must be a list of call, place, old and new size, not {short(data)}")
    call, place, old, new = data
    return Resize(
        integer(call, f"{where}[0]", 0),
        listed(place, f"{where}[1]", lambda entry, at: integer(entry, at, 0, MAX_TUPLE)),
        integer(old, f"{where}[2]", -MAX_SIZE),
        integer(new, f"{where}[3]", -MAX_SIZE),
    )
