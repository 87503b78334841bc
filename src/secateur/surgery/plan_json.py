"""The JSON form of a plan: everything but the tensors, checked entry by entry when it is read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from secateur.errors import ArtefactError, SurgeryError, did_you_mean

from .example import rebuild
from .plan import (
    Edit,
    Fingerprint,
    Plan,
    RemoveBranch,
    Resize,
    Retrace,
    SetAttribute,
    Setting,
    SliceTensor,
)

__all__ = ["PLAN_VERSION", "plan_from_json", "plan_to_json"]

PLAN_VERSION = 1
MAX_DIMS = 8
MAX_SIZE = 2**31
MAX_NAME = 1024
MAX_TUPLE = 64

T = TypeVar("T")


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
    }


def plan_from_json(data: object, tensors: Mapping[str, Tensor]) -> Plan:
    """Return the plan that `plan_to_json` wrote, with its tensors.

    Raises:
        ArtefactError: a key is missing or unknown, a value has the wrong type or is out of range, or a newer
            secateur wrote it. The message names the entry.
    """
    version = _integer(_mapping(data, "plan").get("version"), "plan.version", 1)
    if version > PLAN_VERSION:
        raise ArtefactError(
            f"the plan has format version {version}, this secateur reads up to {PLAN_VERSION}: "
            "update secateur"
        )
    entries = _keys(data, "plan", "version", "made_for", "kept", "edits", optional=("example",))
    made_for = _keys(entries["made_for"], "plan.made_for", "model", "digest")
    kept = _mapping(entries["kept"], "plan.kept")
    return Plan(
        kept={
            _name(group, "a group of plan.kept"): _index(units, f"plan.kept[{group!r}]", MAX_SIZE, empty=True)
            for group, units in kept.items()
        },
        edits=_list(entries["edits"], "plan.edits", _edit_from_json),
        made_for=Fingerprint(
            _name(made_for["model"], "plan.made_for.model"), _name(made_for["digest"], "plan.made_for.digest")
        ),
        tensors=dict(tensors),
        example=_example(entries.get("example")),
    )


def _example(data: object) -> Any:
    try:
        rebuild(data, torch.device("meta"))
    except (SurgeryError, RecursionError) as error:
        raise ArtefactError(f"plan.example: {error}") from None
    return data


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
        case Retrace(module, digest, sizes):
            rows = [[s.call, list(s.place), s.old, s.new] for s in sizes]
            return {"edit": "retrace", "module": module, "digest": digest, "sizes": rows}


def _edit_from_json(data: object, where: str) -> Edit:
    kind = _mapping(data, where).get("edit")
    if kind == "slice":
        entry = _keys(data, where, "edit", "names", "dim", "index", "size")
        size = _integer(entry["size"], f"{where}.size", 1)
        names = _list(entry["names"], f"{where}.names", _name)
        if not names:
            raise ArtefactError(f"{where}.names is empty")
        return SliceTensor(
            names,
            _integer(entry["dim"], f"{where}.dim", 0, MAX_DIMS),
            _index(entry["index"], f"{where}.index", size),
            size,
        )
    if kind == "set":
        entry = _keys(data, where, "edit", "module", "attribute", "old", "new")
        attribute = _name(entry["attribute"], f"{where}.attribute")
        if not attribute.isidentifier() or attribute.startswith("_"):
            raise ArtefactError(f"{where}.attribute is {attribute!r}, which is not a public attribute name")
        return SetAttribute(
            _module(entry["module"], f"{where}.module"),
            attribute,
            _setting(entry["old"], f"{where}.old"),
            _setting(entry["new"], f"{where}.new"),
        )
    if kind == "remove_branch":
        entry = _keys(data, where, "edit", "constants", "removed", "skipped", "written_out")
        if not isinstance(entry["written_out"], bool):
            raise ArtefactError(f"{where}.written_out must be true or false")
        return RemoveBranch(
            _list(entry["constants"], f"{where}.constants", _name),
            _list(entry["removed"], f"{where}.removed", _name),
            _list(entry["skipped"], f"{where}.skipped", _name),
            entry["written_out"],
        )
    if kind == "retrace":
        entry = _keys(data, where, "edit", "module", "digest", "sizes")
        return Retrace(
            _module(entry["module"], f"{where}.module"),
            _name(entry["digest"], f"{where}.digest"),
            _list(entry["sizes"], f"{where}.sizes", _resize),
        )
    known = "'slice', 'set', 'remove_branch' and 'retrace'"
    raise ArtefactError(f"{where}.edit is {_short(kind)}; known are {known}")


def _resize(data: object, where: str) -> Resize:
    if not isinstance(data, list) or len(data) != 4:
        raise ArtefactError(f"{where} must be a list of call, place, old and new size, not {_short(data)}")
    call, place, old, new = data
    return Resize(
        _integer(call, f"{where}[0]", 0),
        _list(place, f"{where}[1]", lambda entry, at: _integer(entry, at, 0, MAX_TUPLE)),
        _integer(old, f"{where}[2]", -MAX_SIZE),
        _integer(new, f"{where}[3]", -MAX_SIZE),
    )


def _mapping(data: object, where: str) -> Mapping[str, Any]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ArtefactError(f"{where} must be an object, not {_short(data)}")
    return data


def _keys(data: object, where: str, *names: str, optional: tuple[str, ...] = ()) -> Mapping[str, Any]:
    entries = _mapping(data, where)
    for name in names:
        if name not in entries:
            raise ArtefactError(f"{where} has no entry {name!r}")
    for name in entries:
        if name not in (*names, *optional):
            raise ArtefactError(f"{where} has an unknown entry {_short(name)}.{did_you_mean(name, names)}")
    return entries


def _list(data: object, where: str, read: Callable[[object, str], T]) -> tuple[T, ...]:
    if not isinstance(data, list):
        raise ArtefactError(f"{where} must be a list, not {_short(data)}")
    return tuple(read(entry, f"{where}[{i}]") for i, entry in enumerate(data))


def _integer(data: object, where: str, low: int, high: int = MAX_SIZE) -> int:
    # JSON's true and false are Python integers as well.
    if not isinstance(data, int) or isinstance(data, bool) or not low <= data <= high:
        raise ArtefactError(f"{where} must be an integer from {low} to {high}, not {_short(data)}")
    return data


def _index(data: object, where: str, size: int, *, empty: bool = False) -> tuple[int, ...]:
    index = _list(data, where, lambda entry, at: _integer(entry, at, 0, size - 1))
    if not index and not empty:
        raise ArtefactError(f"{where} is empty: a dimension keeps at least one index")
    if any(b <= a for a, b in itertools.pairwise(index)):
        raise ArtefactError(f"{where} must ascend, each index once")
    return index


def _setting(data: object, where: str) -> Setting:
    if isinstance(data, list):
        if len(data) > MAX_TUPLE:
            raise ArtefactError(f"{where} has {len(data)} entries, at most {MAX_TUPLE} are allowed")
        return _list(data, where, lambda entry, at: _integer(entry, at, -MAX_SIZE))
    return _integer(data, where, -MAX_SIZE)


def _module(data: object, where: str) -> str:
    return "" if data == "" else _name(data, where)


def _name(data: object, where: str) -> str:
    if not isinstance(data, str) or not 0 < len(data) <= MAX_NAME:
        raise ArtefactError(f"{where} must be a name of 1 to {MAX_NAME} characters, not {_short(data)}")
    return data


def _short(data: object) -> str:
    text = repr(data) if isinstance(data, str | int | float | bool | None) else type(data).__name__
    return text if len(text) <= 60 else text[:60] + "..."
