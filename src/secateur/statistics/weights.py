"""Weights in one form for all layers: outputs first, however a layer holds them."""

from __future__ import annotations

from torch import Tensor

from secateur.graph import Layer

__all__ = ["as_stored", "outputs_first", "swapped"]


def outputs_first(layer: Layer, weight: Tensor) -> Tensor:
    """Return a layer's weight as (outputs, inputs of a group, *taps)."""
    return swapped(layer, weight) if layer.inputs_first else weight


def as_stored(layer: Layer, weight: Tensor) -> Tensor:
    """Return a weight (outputs, inputs of a group, *taps) as the layer holds it: the inverse of `outputs_first`."""
    return swapped(layer, weight) if layer.inputs_first else weight


def swapped(layer: Layer, weight: Tensor) -> Tensor:
    """Swap inputs and outputs inside of each convolution group: (outputs, inputs of a group, ...) and back."""
    split = weight.reshape(layer.groups, -1, *weight.shape[1:])
    return split.transpose(1, 2).flatten(0, 1)
