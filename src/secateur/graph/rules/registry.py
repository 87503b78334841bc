"""The table of rules: operator family -> how its dimensions relate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..labels import Value

__all__ = ["RULES", "Result", "rule"]

Result = Value | Sequence["Value | None"] | None
Rule = Callable[..., Result]
R = TypeVar("R", bound=Callable[..., Any])

RULES: dict[str, Rule] = {}
"""Filled by the decorators when `secateur.graph.rules` is imported, and only read afterwards."""


def rule(*operators: str) -> Callable[[R], R]:
    """Register a function as the rule of operator families (names without overload and trailing underscore).

    The function gets the Context, the Node, and the operator's own arguments with values for tensors and
    plain integers for symbolic sizes. It returns the labelled output, or one for each output.

    Raises:
        ValueError: a family has a rule already.
    """

    def register(function: R) -> R:
        for operator in operators:
            if operator in RULES:
                raise ValueError(f"operator {operator} has two rules")
            RULES[operator] = function
        return function

    return register
