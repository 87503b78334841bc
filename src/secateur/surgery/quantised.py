"""Quantised layers: torch's own, with weights that are integers times scales, reading their input in levels.

They compute with reals what the int8 kernels compute with bytes: the same up to the rounding of float32 sums.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.ground.levels import Levels

from .plan import QuantiseLayer

__all__ = ["QuantisedConv2d", "QuantisedLinear", "input_groups", "install", "misfit", "spread_scales"]


class _Integers:
    """What quantised layers have in common; `levels` None: the input stays as it is."""

    weight: Tensor
    weight_scales: Tensor
    levels: Levels | None
    bits: int
    group: int

    def integers(self) -> Tensor:
        """Return the weights as integers, int8, of the weight's shape.

        >>> layer = nn.Linear(2, 1, bias=False)
        >>> install(layer, QuantiseLayer("fc", 8))
        >>> layer.weight_scales.fill_(0.5); layer.weight.data.copy_(torch.tensor([[1.5, -2.0]]))
        tensor([[0.5000]])
        tensor([[ 1.5000, -2.0000]])
        >>> layer.integers()
        tensor([[ 3, -4]], dtype=torch.int8)
        """
        weight, most = self.weight.detach().float(), 2 ** (self.bits - 1) - 1
        scales = spread_scales(self.weight_scales, weight.shape, self.group)
        return (weight / scales).round().clamp(-most, most).to(torch.int8)

    def read(self, x: Tensor) -> Tensor:
        """Return an input as the layer reads it."""
        return x if self.levels is None else self.levels.simulated(x)

    def told(self) -> str:
        """Say how it is quantised."""
        levels = self.levels
        read = (
            ""
            if levels is None
            else f", input scale={levels.scale:.4g}, zero={levels.zero}, most={levels.most}"
        )
        return f"bits={self.bits}" + (f", group={self.group}" if self.group else "") + read


class QuantisedLinear(_Integers, nn.Linear):
    """A linear layer with weights that are integers times scales."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply what is read of the input."""
        return super().forward(self.read(x))

    def extra_repr(self) -> str:
        """Say the sizes, and how it is quantised."""
        return f"{super().extra_repr()}, {self.told()}"


class QuantisedConv2d(_Integers, nn.Conv2d):
    """A convolution with weights that are integers times scales. Around a map is 0, which levels have."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve what is read of the input."""
        return super().forward(self.read(x))

    def extra_repr(self) -> str:
        """Say the sizes, and how it is quantised."""
        return f"{super().extra_repr()}, {self.told()}"  # type: ignore[no-untyped-call]


QUANTISED: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: QuantisedLinear, nn.Conv2d: QuantisedConv2d}


def misfit(module: nn.Module) -> str:
    """Say why a module cannot be quantised; nothing if it can.

    >>> misfit(nn.BatchNorm2d(3)), misfit(nn.Linear(2, 3))
    ('it is a BatchNorm2d, neither a Linear nor a Conv2d of torch itself', '')
    """
    if type(module) not in QUANTISED:
        return f"it is a {type(module).__name__}, neither a Linear nor a Conv2d of torch itself"
    if "weight" not in module._parameters:
        return "its weight is computed, and no parameter"
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"it pads with {module.padding_mode!r}, and not with zeros"
    return ""


def input_groups(inputs: int, group: int) -> int:
    """Return how many scales an output has; the last group may have fewer inputs.

    >>> input_groups(100, 64), input_groups(100, 0)
    (2, 1)
    """
    return -(-inputs // group) if group else 1


def spread_scales(scales: Tensor, shape: torch.Size | tuple[int, ...], group: int) -> Tensor:
    """Return scales (outputs, groups) against a weight (outputs, inputs, *taps): one for each input, or for all."""
    each = scales.repeat_interleave(group, 1)[:, : shape[1]] if group else scales
    return each.reshape(*each.shape, *[1] * (len(shape) - 2))


def install(module: nn.Module, edit: QuantiseLayer) -> None:
    """Make a layer, which `misfit` has nothing against, a quantised one in place. Its scales are 1 at first."""
    weight = module._parameters["weight"]
    assert weight is not None
    groups = input_groups(weight.shape[1], edit.group)
    module.register_buffer("weight_scales", torch.ones(len(weight), groups, device=weight.device))
    module.__class__ = QUANTISED[type(module)]
    quantised: _Integers = module  # type: ignore[assignment]
    quantised.bits, quantised.group = edit.bits, edit.group
    quantised.levels = None if edit.levels is None else Levels(*edit.levels)
