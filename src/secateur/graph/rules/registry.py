"""The table of rules: operator family -> how its dimensions relate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..labels import Value
from ..program import Node

__all__ = ["RULES", "Result", "blank", "rule"]

Result = Value | Sequence["Value | None"] | None
Rule = Callable[..., Result]
R = TypeVar("R", bound=Callable[..., Any])

RULES: dict[str, Rule] = {}
"""Filled by the decorators when `secateur.graph.rules` is imported, and only read afterwards."""


def blank(node: Node) -> Result:
    """Return outputs of the shapes of a call without labels."""
    if node.several is not None:
        return [None if s is None else Value(s) for s in node.several]
    return None if node.shape is None else Value(node.tensor_shape())


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
