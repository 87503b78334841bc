"""Choosing: for each layer the fastest of the sparse kernels and torch's dense operators, by timing them in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from secateur.ground.errors import KernelError

from .dense import dense_conv, dense_linear
from .fuse import FusedLayer
from .int8.network import Int8Call, levels_read
from .modules import SparseConv2d, SparseLinear
from .packing import Packed, pack
from .timing import medians
from .unified import pack_unified

__all__ = ["Choice", "Dense", "candidates", "key_of", "stored", "time_candidates"]

LARGE = 1 << 24  # weights; reading so many is what takes time, by whatever engine, if few of them are zero
WORTH = 0.9  # of the weights, that a large layer's kernels may read


@dataclass(frozen=True)
class Choice:
    """What was chosen for one layer, and what each candidate took."""

    layer: str
    kernel: str  # "dense", "8x1", "unified 1x4", ...
    stored: float  # share of the weights that the fastest sparse kernel reads
    ms: Mapping[str, float]


class Dense(nn.Module):
    """A fused layer in torch's own operators."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: FusedLayer) -> None:
        super().__init__()
        self.layer = (layer.window, layer.groups, layer.activation, layer.add_last)
        self.register_buffer("weight", layer.weight)
        self.register_buffer(
            "bias", layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
        )

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Apply the layer, the residual sum and the activation."""
        window, groups, activation, add_last = self.layer
        if window is None:
            return dense_linear(x, self.weight, self.bias, activation, residual, add_last)
        return dense_conv(x, self.weight, self.bias, window, groups, activation, residual, add_last)


def candidates(layer: FusedLayer) -> dict[str, nn.Module]:
    """Return the ways to run a layer by name, "dense" first.

    Kernels that read all weights are tried as well: on small batches and few channels torch is often slower.
    """
    found: dict[str, nn.Module] = {"dense": Dense(layer)}
    if layer.groups > 1 and layer.groups == len(layer.weight):
        return found  # depthwise: nothing to share between outputs
    total = layer.weight.numel()
    try:
        blocks = pack(layer.weight, layer.bias, groups=layer.groups)
    except KernelError:
        return found
    if total < LARGE or blocks.values.numel() < WORTH * total:
        found[f"{blocks.height}x1"] = _sparse(layer, blocks)
    if layer.groups == 1:
        unified = pack_unified(layer.weight, layer.bias)
        # A product with a shared sum costs about what two and a half of a tall block do.
        if unified.planes == 8 and 2.5 * unified.entries < min(blocks.values.numel(), WORTH * total):
            found["unified 1x4"] = _sparse(layer, unified)
    return found


def stored(way: nn.Module) -> int | None:
    """Return how many weights a candidate reads; None for all of them."""
    if isinstance(way, Int8Call):
        return way.layer.values.numel()
    return way.values.numel() if isinstance(way, SparseLinear | SparseConv2d) else None


def _sparse(layer: FusedLayer, packed: Packed) -> nn.Module:
    if layer.window is None:
        return SparseLinear(packed, layer.activation, layer.add_last)
    return SparseConv2d(packed, layer.window, layer.groups, layer.activation, layer.add_last)


def key_of(
    layer: FusedLayer, name: str, module: nn.Module, shape: Sequence[int], instruction_set: str
) -> str:
    """Return a text that two calls share only if they take the same time."""
    parts = [
        "conv2d" if layer.window else "linear", f"input={tuple(shape)}", f"weight={tuple(layer.weight.shape)}",
        f"window={layer.window}", f"groups={layer.groups}", layer.activation.name,
        f"residual={layer.residual is not None}", f"levels={levels_read(layer.input) is not None}", name,
    ]  # fmt: skip
    if isinstance(module, Int8Call):
        parts += [f"entries={module.layer.column.numel()}", f"most={module.layer.x.most}", instruction_set]
    if isinstance(module, SparseLinear | SparseConv2d):
        parts += [f"entries={module.column.numel()}", instruction_set]
    return " ".join(parts)


@torch.inference_mode()
def time_candidates(
    layer: FusedLayer, modules: Mapping[str, nn.Module], shape: Sequence[int]
) -> dict[str, float]:
    """Return the median milliseconds of each candidate on a random input, run in turns.

    A quantised layer has its input brought into levels, as reals or as bytes, which counts.
    """
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(tuple(shape), generator=rng)
    inputs: tuple[Tensor, ...] = (x,)
    if layer.residual is not None:
        inputs = (x, torch.rand(next(iter(modules.values()))(x).shape, generator=rng))
    levels = levels_read(layer.input)

    def in_floats(module: nn.Module, x: Tensor, *others: Tensor) -> Tensor:
        result: Tensor = module(x if levels is None else levels.simulated(x), *others)
        return result

    calls: dict[str, Callable[[], object]] = {
        name: partial(module, *inputs)
        if isinstance(module, Int8Call)
        else partial(in_floats, module, *inputs)
        for name, module in modules.items()
    }
    return medians(calls)
