"""Pooling and resampling: the spatial dimensions may not shrink, the channels pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..context import Context
from ..labels import Value
from ..program import Node
from .registry import Result, rule

_SLIDING = """
    max_pool avg_pool adaptive_avg_pool adaptive_max_pool lp_pool upsample_nearest upsample_nearest_exact
    _upsample_nearest_exact upsample_bilinear upsample_linear upsample_trilinear upsample_bicubic
    reflection_pad replication_pad
"""


@rule("max_unpool2d", "max_unpool3d")
def unpool(ctx: Context, node: Node, x: Value, indices: Value, *_: Any) -> Value:
    """Freeze the spatial dimensions; the channels pass, with those of the indices."""
    rank = int(node.op.removeprefix("max_unpool")[0])
    x = ctx.block_value(
        ctx.joint(x.shape, [x, indices]), range(x.ndim - rank, x.ndim), f"{node.op} works over it"
    )
    return replace(x, shape=node.tensor_shape())


@rule(*(f"{name}{n}d" for name in _SLIDING.split() for n in (1, 2, 3)),
      *(f"max_pool{n}d_with_indices" for n in (2, 3)))  # fmt: skip
def pool(ctx: Context, node: Node, x: Value, *_: Any, **__: Any) -> Result:
    """Freeze the spatial dimensions; the channels pass."""
    rank = next(int(c) for c in node.op.removesuffix("_with_indices")[::-1] if c.isdigit())
    x = ctx.block_value(x, range(x.ndim - rank, x.ndim), f"{node.op} works over it")
    if node.several is not None:
        return [replace(x, shape=s) for s in node.several if s is not None]
    return replace(x, shape=node.tensor_shape())
