"""Operators that work entry by entry, with or without broadcasting."""

from __future__ import annotations

from typing import Any

from ..context import Context
from ..labels import Value
from ..program import Node
from .registry import rule

_UNARY = """
    relu relu6 gelu silu sigmoid hardswish hardsigmoid hardtanh leaky_relu tanh elu mish softplus selu celu
    log_sigmoid hardshrink softshrink threshold rrelu tanhshrink softsign
    dropout alpha_dropout feature_dropout feature_alpha_dropout
    clone contiguous detach alias to _to_copy type_as float half double bfloat16 lift_fresh_copy lift_fresh
    exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square reciprocal erf sin cos tan neg abs sign floor ceil round
    trunc clamp clamp_min clamp_max clip nan_to_num isnan isinf isfinite logical_not bitwise_not bernoulli
    zero positive frac sinh cosh asin acos atan asinh acosh atanh detach_copy
"""

_BROADCAST = """
    add sub rsub mul div true_divide floor_divide remainder fmod pow maximum minimum fmax fmin where masked_fill
    lerp addcmul addcdiv atan2 hypot xlogy eq ne lt le gt ge __and__ __or__ __xor__ logical_and logical_or
    logical_xor bitwise_and bitwise_or bitwise_xor expand_as copy fill
"""


def _tensors(*candidates: Any) -> list[Value]:
    return [v for v in candidates if isinstance(v, Value)]


@rule(*_UNARY.split())
def unary(ctx: Context, node: Node, *args: Any, **kwargs: Any) -> Value:
    """Labels pass."""
    return ctx.norm(_tensors(*args, *kwargs.values())[0])


@rule(*_BROADCAST.split())
def broadcast(ctx: Context, node: Node, *args: Any, **kwargs: Any) -> Value:
    """Unify the operands index by index."""
    return ctx.joint(node.tensor_shape(), _tensors(*args, *kwargs.values()))


@rule("prelu")
def prelu(ctx: Context, node: Node, x: Value, slope: Value) -> Value:
    """As a product with one slope for each channel."""
    return ctx.joint(x.shape, [x, slope.as_channels(x.ndim)])
