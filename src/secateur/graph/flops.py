"""Kernels that torch's own counter of floating-point operations does not know: those of processors, and vectors'."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

__all__ = ["FORMULAS"]

Shape = Sequence[int]


def _attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    """Count the products of fused attention: all queries with all keys, and the weights with all values."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _lstm(inputs: Shape, read: Shape, kept: Shape, *_: object, **__: object) -> int:
    """Count one direction of one layer, which oneDNN runs as one call: two matrix products at each position."""
    return 2 * math.prod(inputs[:-1]) * (math.prod(read) + math.prod(kept))


def _recurrent(inputs: Shape, weights: Sequence[Shape], *_: object, **__: object) -> int:
    """Count all layers of cuDNN's one call: every matrix once at each position."""
    return 2 * math.prod(inputs[:-1]) * sum(math.prod(w) for w in weights if len(w) == 2)


def _dot(a: Shape, b: Shape, *_: object, **__: object) -> int:
    return 2 * math.prod(a)


def _rows(a: Shape, b: Shape, *_: object, **__: object) -> int:
    """Count rows (of tokens, say), each of which meets one matrix (that of an expert)."""
    return 2 * math.prod(a) * b[-1]


def _added(formula: Callable[..., int]) -> Callable[..., int]:
    """Return the formula of a product that is added to what comes first."""
    return lambda bias, *factors, **options: formula(*factors, **options)


def _trilinear(a: Shape, weight: Shape, b: Shape, *_: object, **__: object) -> int:
    """Count one for every entry of the weight of a bilinear layer at each position."""
    return 2 * a[0] * math.prod(weight)


def _distances(a: Shape, b: Shape, *_: object, **__: object) -> int:
    return 2 * math.prod(a) * b[-2]


def _formulas() -> dict[Any, Callable[..., int]]:
    aten = torch.ops.aten
    found: dict[Any, Callable[..., int]] = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten.mkldnn_rnn_layer: _lstm,
        aten._cudnn_rnn: _recurrent,
        aten.mv: _dot,
        aten.dot: _dot,
        aten.vdot: _dot,
        aten.addmv: _added(_dot),
        aten.addbmm: _added(_rows),
        aten._trilinear: _trilinear,
        aten._cdist_forward: _distances,
    }
    if hasattr(aten, "_grouped_mm"):  # torch 2.8 and later have it
        found[aten._grouped_mm] = _rows
    return found


FORMULAS: Mapping[Any, Callable[..., int]] = _formulas()
"""What ``FlopCounterMode(custom_mapping=...)`` takes: operator -> its operations, two for each multiply-accumulate."""
