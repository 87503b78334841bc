"""Tensors made from nothing, and calls that only check or measure."""

from __future__ import annotations

from typing import Any

from ..context import Context
from ..labels import Value
from ..program import Node
from .registry import Result, blank, rule

_FACTORIES = """
    arange eye linspace empty rand randn scalar_tensor new_empty rand_like randn_like get_attr one_hot
"""

_ALIKE = "zeros_like ones_like full_like empty_like"

_CONSTANTS = {"zeros": 0, "ones": 0, "full": 0, "new_zeros": 1, "new_ones": 1, "new_full": 1}
"""Tensors of one number, and where among their arguments the sizes stand."""

_CHECKS = """
    _assert_tensor_metadata _assert_scalar _assert_async sym_constrain_range sym_constrain_range_for_size
    sym_size sym_numel sym_stride item _guards_fn
"""


@rule(*_FACTORIES.split())
def factory(ctx: Context, node: Node, *_: Any, **__: Any) -> Result:
    """A value without labels."""
    return blank(node)


@rule(*_ALIKE.split())
def alike(ctx: Context, node: Node, x: Value, *_: Any, **__: Any) -> Value:
    """Follow the value whose size it takes."""
    return ctx.norm(x)


@rule(*_CONSTANTS)
def constant(ctx: Context, node: Node, *_: Any, **__: Any) -> Value:
    """Let entries go with what they meet: all are the same. Sums over neighbours and experts start from such zeros.

    The first dimension counts samples, and larger tensors are masks.
    """
    made = Value(node.tensor_shape())
    at = _CONSTANTS[node.op]
    sizes = node.args[at] if len(node.args) > at and isinstance(node.args[at], tuple) else ()
    for d, number in enumerate(sizes):
        if 0 < d < made.ndim <= 3 and number == made.shape[d] > 1:
            made = ctx.copies(made, d, made.shape[d])
    return made


@rule(*_CHECKS.split())
def check(ctx: Context, node: Node, *_: Any, **__: Any) -> Result:
    """Nothing comes of it."""
    return None
