"""Quantised layers in ONNX: pairs of QuantizeLinear and DequantizeLinear, which engines read as integer layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.surgery.quantised import QuantisedConv2d, QuantisedLinear

__all__ = ["quantised_layers", "translations", "with_integers"]


def quantised_layers(model: nn.Module) -> dict[str, QuantisedConv2d | QuantisedLinear]:
    """Return the quantised layers of a model by path."""
    return {p: m for p, m in model.named_modules() if isinstance(m, QuantisedConv2d | QuantisedLinear)}


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return what stands for `in_levels` in an ONNX graph."""
    import numpy as np
    from onnxscript import opset18 as op

    def in_levels(x: Any, scale: float, zero: int, most: int) -> Any:
        import onnx

        def constant(value: Any) -> Any:
            return op.Constant(value=onnx.numpy_helper.from_array(value))

        if most < 255:  # bytes end at 255
            low, high = np.float32(-zero * scale), np.float32((most - zero) * scale)
            x = op.Clip(x, constant(low), constant(high))
        step, level = constant(np.float32(scale)), constant(np.uint8(zero))
        levels: Any = op.QuantizeLinear(x, step, level)
        return op.DequantizeLinear(levels, step, level)

    return {torch.ops.secateur.in_levels.default: in_levels}


def with_integers(written: Any, layers: Mapping[str, QuantisedConv2d | QuantisedLinear]) -> None:
    """Store the weights of an onnx_ir model's quantised layers as int8, behind a DequantizeLinear each.

    A norm that was folded into a weight went into its scales. Weights that share a scale by groups stay float, and so
    do those that the exporter has turned or renamed.
    """
    graph = written.graph
    for path, layer in layers.items():
        value = graph.initializers.get(f"{path}.weight")
        if layer.group or value is None or tuple(value.shape) != tuple(layer.weight.shape):
            continue
        found = _by_output(torch.from_numpy(value.const_value.numpy().copy()), layer.integers())
        if found is not None:
            _dequantised(graph, value, *found)


def _by_output(weight: Tensor, integers: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return integers and scales, none below 0, of which a weight is the product; None if it is no such product."""
    rows, levels = weight.double().flatten(1), integers.double().flatten(1)
    scales = (rows * levels).sum(1) / (levels**2).sum(1).clamp_min(1)
    if not torch.allclose(scales[:, None] * levels, rows, rtol=1e-5, atol=0):
        return None
    signs = torch.where(scales < 0, -1, 1).to(torch.int8)
    positive = torch.where(scales == 0, 1.0, scales.abs()).float()
    return integers * signs.reshape(-1, *[1] * (integers.dim() - 1)), positive


def _dequantised(graph: Any, value: Any, integers: Tensor, scales: Tensor) -> None:
    import onnx_ir as ir

    def constant(name: str, tensor: Tensor) -> Any:
        stored: Any = ir.tensor(tensor.numpy())
        made = ir.Value(name=f"{value.name}_{name}", const_value=stored)
        made.shape, made.dtype = stored.shape, stored.dtype
        graph.initializers[made.name] = made
        return made

    inputs = [
        constant("integers", integers), constant("scales", scales),
        constant("zeros", torch.zeros(len(scales), dtype=torch.int8)),
    ]  # fmt: skip
    node = ir.node("DequantizeLinear", inputs, attributes={"axis": 0})
    node.outputs[0].name = f"{value.name}_real"
    users = list(value.uses())
    graph.insert_before(graph[0], node)
    for user, place in users:
        user.replace_input_with(place, node.outputs[0])
    del graph.initializers[value.name]
