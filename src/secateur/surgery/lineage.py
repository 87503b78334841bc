"""What a pruned module knows of its past: the plans that led to it, so that it can be pruned again and still be loaded.

It is text on the module, so that copies have it, and a pickle of an ordinary module needs nothing of secateur's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from secateur.ground.errors import SecateurError
from secateur.ground.tensors import tensors_of
from secateur.measure import Size

from .chain import after, with_constants
from .fit import fingerprint
from .plan import Plan
from .plan_json import plan_from_json, plan_to_json

__all__ = ["Lineage", "lineage", "remember"]

_NAME = "_secateur"  # of the module's attribute


@dataclass(frozen=True)
class Lineage:
    """How a module came about: `plan` leads from the network `original` to its shapes, and sets no values."""

    plan: Plan
    method: str  # what reports say of all steps
    budget: str
    original: Size
    recipe: Mapping[str, Any]


def remember(model: nn.Module, past: Lineage) -> None:
    """Write on a module how it came about."""
    data = {
        "plan": plan_to_json(after((), past.plan)),
        "left": fingerprint(model).digest,
        "method": past.method,
        "budget": past.budget,
        "original": asdict(past.original),
        "recipe": past.recipe,
    }
    vars(model)[_NAME] = json.dumps(data, default=str)


def lineage(model: nn.Module) -> Lineage | None:
    """Return how a module came about, or None where nothing is known, or where its shapes are others by now."""
    text = vars(model).get(_NAME)
    if not isinstance(text, str):
        return None
    try:
        data = json.loads(text)
        if data["left"] != fingerprint(model).digest:
            return None
        plan = with_constants(plan_from_json(data["plan"], {}), tensors_of(model))
        return Lineage(plan, data["method"], data["budget"], Size(**data["original"]), data["recipe"])
    except (SecateurError, ValueError, TypeError, KeyError):  # whoever wrote it
        return None
