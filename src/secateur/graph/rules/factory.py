"""Tensors made from nothing, and calls that only check or measure: no labels."""

from __future__ import annotations

from typing import Any

from ..context import Context
from ..labels import Value
from ..program import Node
from .registry import Result, rule

_FACTORIES = """
    zeros ones full arange eye linspace empty rand randn scalar_tensor new_zeros new_ones new_full new_empty
    zeros_like ones_like full_like empty_like rand_like randn_like get_attr one_hot
"""

_CHECKS = """
    _assert_tensor_metadata _assert_scalar _assert_async sym_constrain_range sym_constrain_range_for_size
    sym_size sym_numel sym_stride item _guards_fn
"""


@rule(*_FACTORIES.split())
def factory(ctx: Context, node: Node, *_: Any, **__: Any) -> Result:
    """A value without labels."""
    return Value(node.tensor_shape()) if node.shape is not None else None


@rule(*_CHECKS.split())
def check(ctx: Context, node: Node, *_: Any, **__: Any) -> Result:
    """Nothing comes of it."""
    return None
