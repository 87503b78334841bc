"""What the parts of a recipe share: unknown keys are errors, numbers are numbers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Positive", "Seed", "Strict", "TypeName", "named"]

Positive = Annotated[int, Field(ge=1, strict=True)]
Seed = Annotated[int, Field(ge=0, strict=True)]


def named(value: Any) -> Any:
    """Let a plain name stand for a mapping that has only a name."""
    return {"name": value} if isinstance(value, str) else value


class Strict(BaseModel):
    """A part of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class TypeName(Strict):
    """All layers of a class: a name in torch.nn, or ``module:Class``."""

    type: str
