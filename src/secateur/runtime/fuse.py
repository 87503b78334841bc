"""Fusing: a linear layer or convolution of an exported graph with the norm, activation and residual sum behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .geometry import Window
from .packing import Activation

__all__ = ["FusedLayer", "find_layers", "find_pools"]

aten = torch.ops.aten
_RELUS: dict[Any, Activation] = {
    aten.relu.default: Activation.RELU,
    aten.relu6.default: Activation.RELU6,
    aten.silu.default: Activation.SILU,
    aten.hardswish.default: Activation.HARDSWISH,
}


@dataclass(frozen=True)
class FusedLayer:
    """A layer and what is computed with it: the nodes from `node` to `last` become one call at the place of `last`."""

    name: str  # path of its module, or its node
    node: Node
    last: Node
    weight: Tensor  # with the norm's scale in it
    bias: Tensor | None
    window: Window | None  # None for a linear layer
    groups: int = 1
    activation: Activation = Activation.NONE
    total: Node | None = None  # the sum that adds a residual
    side: int = 0  # at which of its arguments the residual stands
    add_last: bool = False
    gain: Tensor | None = None  # of the norm, by output: what the weight was multiplied by, float64

    @property
    def residual(self) -> Node | None:
        """The node that is added: read off the sum, for it may be another since the layer was found."""
        if self.total is None:
            return None
        found = self.total.args[self.side]
        assert isinstance(found, Node)
        return found

    @property
    def input(self) -> Node:
        """The node that it reads."""
        found = self.node.args[0]
        assert isinstance(found, Node)
        return found


def find_layers(module: GraphModule) -> Iterator[FusedLayer]:
    """Yield the linear layers and two-dimensional convolutions with float32 weights, each with all it can take in.

    The graph has to be free of writes into tensors (`ExportedProgram.run_decompositions` makes it so).
    """
    taken: set[Node] = set()
    for node in module.graph.nodes:
        call = _call(module, node)
        if call is None:
            continue
        weight, bias, window, groups = call
        last, gain = node, None
        folded = _folded(module, last, weight, bias)
        if folded is not None:
            weight, bias, last, gain = folded
        last, activation, total, side, add_last = _behind(last, taken)
        yield FusedLayer(
            name=_name(node), node=node, last=last, weight=weight, bias=bias, window=window, groups=groups,
            activation=activation, total=total, side=side, add_last=add_last, gain=gain,
        )  # fmt: skip


def find_pools(module: GraphModule) -> Iterator[tuple[Node, Window]]:
    """Yield the max poolings of two dimensions that the kernels take, each with its window."""
    for node in module.graph.nodes:
        value = node.args[0].meta.get("val") if node.args and isinstance(node.args[0], Node) else None
        if node.target is not aten.max_pool2d.default or not isinstance(value, Tensor):
            continue
        names = ("input", "kernel", "stride", "padding", "dilation", "ceil_mode")
        arguments: dict[str, Any] = {**dict(zip(names, node.args)), **node.kwargs}
        kernel, rounds_up = arguments["kernel"], arguments.get("ceil_mode", False)
        stride, padding = arguments.get("stride") or kernel, arguments.get("padding", 0)
        window = Window.of(kernel, stride, padding, arguments.get("dilation", 1))
        plain = window.dilation == (1, 1) and not rounds_up
        if plain and value.dtype == torch.float32 and value.device.type == "cpu":
            yield node, window


def _call(module: GraphModule, node: Node) -> tuple[Tensor, Tensor | None, Window | None, int] | None:
    """Return weight, bias, window and groups of a layer that can be fused, else None."""
    if node.target not in (aten.linear.default, aten.conv2d.default, aten.conv2d.padding):
        return None
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    arguments: dict[str, Any] = {**dict(zip(names, node.args)), **node.kwargs}
    weight, bias = constant(module, arguments["weight"]), constant(module, arguments.get("bias"))
    if not isinstance(arguments["input"], Node) or weight is None:
        return None
    if arguments.get("bias") is not None and bias is None:
        return None
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    if node.target is aten.linear.default:
        return (weight, bias, None, 1) if weight.dim() == 2 else None
    options = {name: arguments[name] for name in ("stride", "padding", "dilation") if name in arguments}
    window = Window.of(weight.shape[2:], **options)
    return weight, bias, window, int(arguments.get("groups", 1))


def constant(module: GraphModule, argument: Any) -> Tensor | None:
    """Return the parameter or buffer that a node stands for, or None."""
    if not isinstance(argument, Node) or argument.op != "get_attr":
        return None
    found: Any = module
    for part in str(argument.target).split("."):
        found = getattr(found, part, None)
    return found.detach() if isinstance(found, Tensor) else None


def _only_user(node: Node) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _folded(
    module: GraphModule, node: Node, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Node, Tensor] | None:
    """Return weight and bias with the evaluating BatchNorm behind a layer in them, the node of its output, its scale.

    In float64, for its scales may be large.
    """
    norm, value = _only_user(node), node.meta.get("val")
    if (
        norm is None
        or norm.args[0] is not node
        or not isinstance(value, Tensor)
        or value.dim() != weight.dim()
    ):
        return None  # with another number of dimensions its channels are not the layer's outputs
    if norm.target is aten._native_batch_norm_legit_no_training.default:  # what decompositions leave of it
        _, gain, shift, mean, variance, _, epsilon = norm.args
        outputs = [n for n in norm.users if n.target is getitem and n.users]
        if len(outputs) != 1 or outputs[0].args[1] != 0:
            return None
        last = outputs[0]
    elif norm.target is aten.batch_norm.default:
        _, gain, shift, mean, variance, training, _, epsilon = norm.args[:8]
        if training:
            return None
        last = norm
    else:
        return None
    gain, shift, mean, variance = (constant(module, a) for a in (gain, shift, mean, variance))
    if mean is None or variance is None or not isinstance(epsilon, int | float):
        return None
    scale = (variance.double() + epsilon).rsqrt() * (1.0 if gain is None else gain.double())
    moved = (0.0 if bias is None else bias.double()) - mean.double()
    fused = moved * scale + (0.0 if shift is None else shift.double())
    shaped = scale.reshape(-1, *[1] * (weight.dim() - 1))
    return (weight.double() * shaped).float(), fused.float(), last, scale


def _behind(node: Node, taken: set[Node]) -> tuple[Node, Activation, Node | None, int, bool]:
    """Follow the only user of a layer: sum then activation, or activation then sum; what it takes is no other's."""
    last, activation, side, add_last = node, Activation.NONE, 0, False
    total: Node | None = None
    for _ in range(2):
        user = _only_user(last)
        if user is None or user in taken:
            break
        place = _summand(user, last)
        if place is not None and total is None:
            total, side, last, add_last = user, place, user, activation != Activation.NONE
        elif activation == Activation.NONE and _activation(user) is not None:
            activation, last = _activation(user) or Activation.NONE, user
        else:
            break
        taken.add(last)
    return last, activation, total, side, add_last


def _activation(node: Node) -> Activation | None:
    if node.target is aten.gelu.default:
        return Activation.GELU_TANH if node.kwargs.get("approximate") == "tanh" else Activation.GELU
    if node.target is aten.hardtanh.default:
        return Activation.RELU6 if tuple(node.args[1:]) == (0.0, 6.0) else None
    return _RELUS.get(node.target)


def _summand(node: Node, own: Node) -> int | None:
    """Return at which argument of a sum stands what it adds to `own`, if it is a tensor of the same shape."""
    if node.target is not aten.add.Tensor or node.kwargs:
        return None
    place = 1 if node.args[0] is own else 0
    other = node.args[place]
    if not isinstance(other, Node) or other is own:
        return None
    a, b = own.meta.get("val"), other.meta.get("val")
    same = isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and b.dtype == torch.float32
    return place if same else None


def _name(node: Node) -> str:
    frames = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return frames[-1] if frames and frames[-1] else node.name
