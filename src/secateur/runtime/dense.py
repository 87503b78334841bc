"""Packed layers without the kernels: the same results from torch, for machines where nothing is compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial

from torch import Tensor
from torch.nn import functional as F

from .geometry import Window
from .packing import Activation

__all__ = ["ACTIVATIONS", "dense_conv", "dense_linear", "warn_once"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.NONE: lambda x: x,
    Activation.RELU: F.relu,
    Activation.RELU6: F.relu6,
    Activation.SILU: F.silu,
    Activation.GELU: F.gelu,
    Activation.GELU_TANH: partial(F.gelu, approximate="tanh"),
    Activation.HARDSWISH: F.hardswish,
}


@cache
def warn_once(reason: str) -> None:
    """Say once why the kernels are not used."""
    warnings.warn(reason, RuntimeWarning, stacklevel=3)


def dense_linear(
    x: Tensor, weight: Tensor, bias: Tensor, activation: Activation, residual: Tensor | None, add_last: bool
) -> Tensor:
    """Return what `run_linear` does, from a dense weight (outputs, inputs)."""
    return _finish(F.linear(x, weight, bias), activation, residual, add_last)


def dense_conv(
    x: Tensor, weight: Tensor, bias: Tensor, window: Window, groups: int, activation: Activation,
    residual: Tensor | None, add_last: bool,
) -> Tensor:  # fmt: skip
    """Return what `run_conv` does, from a dense weight (outputs, inputs of a group, height, width)."""
    top, bottom, left, right = window.padding
    if top == bottom and left == right:
        y = F.conv2d(x, weight, bias, window.stride, (top, left), window.dilation, groups)
    else:
        y = F.conv2d(
            F.pad(x, (left, right, top, bottom)), weight, bias, window.stride, 0, window.dilation, groups
        )
    return _finish(y, activation, residual, add_last)


def _finish(y: Tensor, activation: Activation, residual: Tensor | None, add_last: bool) -> Tensor:
    if residual is None:
        return ACTIVATIONS[activation](y)
    return ACTIVATIONS[activation](y) + residual if add_last else ACTIVATIONS[activation](y + residual)
