"""Layers: the convolution and linear calls of a program whose weight is a parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from secateur.graph.program import Node, Program, Ref, Shape

__all__ = ["Layer", "find_layers"]

RANK = {"linear": 0} | {f"conv{t}{n}d": n for t in ("", "_transpose") for n in (1, 2, 3)}
_PLAIN = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")


@dataclass(frozen=True)
class Layer:
    """One call of a convolution or linear operator; a module called twice makes two."""

    node: str
    op: str  # "linear", "conv2d", "conv_transpose1d", ...
    module: str
    weight: str  # canonical name
    bias: str | None
    value: str  # the node that it reads
    shape: Shape  # of its output, with the batch of the example
    stride: tuple[int, ...] = ()  # empty for linear, as are the next two
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    width: int = 1  # input channels, of one convolution group
    taps: tuple[int, ...] = ()  # sizes of the kernel; empty for linear

    @property
    def out_dim(self) -> int:
        """The dimension of the weight that holds the output channels."""
        return 1 if "transpose" in self.op else 0

    @property
    def in_dim(self) -> int:
        """The dimension of the weight that holds the input channels (of one convolution group)."""
        return 1 - self.out_dim

    @property
    def in_channels(self) -> int:
        """Number of channels that it reads, over all convolution groups."""
        return self.width * self.groups

    @property
    def out_channels(self) -> int:
        """Number of channels that it makes."""
        return self.shape[self.channel_dim]

    @property
    def positions(self) -> tuple[int, ...]:
        """Sizes of its output between batch and channels, along which it applies the same weights."""
        return self.shape[1:-1] if self.op == "linear" else self.shape[self.channel_dim + 1 :]

    @property
    def channel_dim(self) -> int:
        """The dimension of its input and output that holds the channels."""
        return len(self.shape) - 1 if self.op == "linear" else len(self.shape) - 1 - RANK[self.op]


def find_layers(program: Program) -> tuple[Layer, ...]:
    """Return the layers in order. Calls whose weight is computed (parametrised, cut out of another) are none."""
    return tuple(layer for node in program.nodes if (layer := _layer(program, node)) is not None)


def _layer(program: Program, node: Node) -> Layer | None:
    if node.op not in RANK:
        return None
    names = _TRANSPOSED if "transpose" in node.op else _PLAIN
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    weight, bias, value = given["weight"], given.get("bias"), given["input"]
    if not isinstance(value, Ref) or not isinstance(weight, Ref) or weight.name not in program.parameters:
        return None
    canonical = program.parameters[weight.name][0]
    rank = RANK[node.op]
    kernel = program.shapes[canonical][2:]
    stride, dilation = (_each(given.get(k, 1), rank) for k in ("stride", "dilation"))
    return Layer(
        node=node.name,
        op=node.op,
        module=node.module,
        weight=canonical,
        bias=program.parameters[bias.name][0]
        if isinstance(bias, Ref) and bias.name in program.parameters
        else None,
        value=value.name,
        shape=node.tensor_shape(),
        stride=stride,
        padding=_padding(given.get("padding", 0), kernel, dilation),
        dilation=dilation,
        groups=given.get("groups", 1),
        width=program.shapes[canonical][0 if "transpose" in node.op else 1],
        taps=tuple(kernel),
    )


def _each(argument: Any, rank: int) -> tuple[int, ...]:
    if isinstance(argument, int):
        return (argument,) * rank
    return tuple(argument) * rank if len(argument) == 1 else tuple(argument)


def _padding(argument: Any, kernel: Shape, dilation: tuple[int, ...]) -> tuple[int, ...]:
    if argument == "valid":
        return (0,) * len(kernel)
    if argument == "same":  # an even kernel has one more zero after than before, which an integer cannot say
        return tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    return _each(argument, len(kernel))
