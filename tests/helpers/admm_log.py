"""What runs of ADMM left in the log."""

from __future__ import annotations

from typing import Any

from secateur.methods.admm import Residual

__all__ = ["residuals"]


def residuals(attached: Any) -> list[Residual]:
    rows = attached.state_dict()["rule.residuals"].tolist()
    return [Residual(int(step), *rest) for step, *rest in rows]
