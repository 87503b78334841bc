"""What stays the same whatever the inputs are: the traced program is run on inputs that are not a number.

What depends on them is NaN afterwards; what is not is a constant, and has its value. Layers do not count inputs that
they meet with zero weights, so a unit that nothing feeds shows up as the constant that its bias makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from secateur.graph import Graph

__all__ = ["TRANSPARENT", "constants_read"]

TRANSPARENT = frozenset({
    "add", "iadd", "sub", "mul", "div", "neg", "abs", "exp", "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid",
    "gelu", "silu", "mish", "sigmoid", "tanh", "elu", "selu", "celu", "leaky_relu", "softplus", "clamp",
    "batch_norm", "layer_norm", "group_norm", "softmax", "mean", "sum",
    "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand",
    "contiguous", "clone", "alias", "detach", "to", "dropout", "cat", "stack", "split", "chunk", "getitem", "slice",
    "select", "narrow", "pad", "constant_pad_nd",
})  # fmt: skip
"""Operator families that make NaN of NaN wherever a value depends on it, and otherwise compute as always."""


@torch.no_grad()
def constants_read(graph: Graph, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what each layer reads, by its node: NaN where it depends on the inputs, the constant elsewhere.

    `tensors` holds the parameters and buffers by canonical name; the batch is that of the traced example. Operators
    that are not known to be transparent make everything NaN.
    """
    program = graph.program
    specs = program.exported.graph_signature.input_specs
    free = {spec.arg.name for spec in specs if spec.kind is InputKind.USER_INPUT}
    taken = program.takes(tensors, pytree.tree_map(_unknown, program.example))
    runner = _Runner(graph, free)
    # Copies: calls that write into what they are given must not write into the model.
    runner.run(*(value.clone() if isinstance(value, Tensor) else value for value in taken))
    return runner.read


class _Runner(fx.Interpreter):
    def __init__(self, graph: Graph, free: set[str]) -> None:
        super().__init__(graph.program.exported.graph_module)
        self.layers = {layer.node: layer for layer in graph.layers}
        self.nodes = {node.name: node for node in graph.program.nodes}
        self.free = free  # the nodes that depend on the inputs
        self.opaque: set[str] = set()  # those of them that cannot be NaN: integers and truth values
        self.read: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        names = [node.name for node in n.all_input_nodes]
        if n.op != "call_function" or self.free.isdisjoint(names):
            result = super().run_node(n)
            if n.name in self.free:
                self._note(n.name, result)
            return result
        self.free.add(n.name)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        layer = self.layers.get(n.name)
        if layer is not None and not kwargs and len(args) > layer.position + 1:
            self.read[n.name] = args[layer.position].clone()
            return _weighted(n.target, layer.position, list(args))
        result = super().run_node(n)
        node = self.nodes.get(n.name)
        if node is None or node.op not in TRANSPARENT or not self.opaque.isdisjoint(names):
            if node is None or node.writes:
                for read in n.all_input_nodes:
                    if read.name in self.free:
                        pytree.tree_map(_forget, self.env[read])
            result = pytree.tree_map(_unknown, result)
        self._note(n.name, result)
        return result

    def _note(self, name: str, result: Any) -> None:
        leaves = pytree.tree_leaves(result)
        if not all(isinstance(x, Tensor) and x.is_floating_point() for x in leaves):
            self.opaque.add(name)


def _weighted(target: Any, position: int, args: list[Any]) -> Tensor:
    """Return a layer's output: NaN where an input that is NaN meets a weight that is not zero."""
    x, weight = args[position], args[position + 1]
    result: Tensor = target(*_with(args, position, x.nan_to_num(0.0), weight))
    counted = _with(args, position, x.isnan().float(), (weight != 0).float())
    bias = 0 if position else 2  # addmm has it first
    if len(counted) > bias and isinstance(counted[bias], Tensor) and bias != position:
        counted[bias] = torch.zeros_like(counted[bias], dtype=torch.float32)
    return result.masked_fill(target(*counted) > 0.5, torch.nan)


def _with(args: list[Any], position: int, x: Tensor, weight: Tensor) -> list[Any]:
    return [*args[:position], x, weight, *args[position + 2 :]]


def _forget(value: Any) -> None:
    """Make a value that was written into unknown, in place."""
    if isinstance(value, Tensor) and value.is_floating_point():
        value.fill_(torch.nan)


def _unknown(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.full_like(value, torch.nan)
    return value
