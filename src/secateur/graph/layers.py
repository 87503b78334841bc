"""Layers: the convolution, linear and matrix product calls of a program whose weight is a parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .program import IDENTITIES, Node, Program, Ref, Shape

__all__ = ["Layer", "argument_names", "find_layers"]

RANK = {"linear": 0} | {f"conv{t}{n}d": n for t in ("", "_transpose") for n in (1, 2, 3)}
_PRODUCTS = {"matmul": 0, "mm": 0, "addmm": 1}
"""Matrix products, and where among their arguments the left factor stands."""
_FLIPS = frozenset({"t", "transpose", "swapaxes", "swapdims", "numpy_T", "mT", "permute"})
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")


def argument_names(op: str) -> tuple[str, ...]:
    """Return what the arguments of a linear or convolution operator are called, in order."""
    return _TRANSPOSED if "transpose" in op else _ARGUMENTS


@dataclass(frozen=True)
class Layer:
    """One call of a convolution, a linear operator or a product with a matrix; a module called twice makes two."""

    node: str
    op: str  # "linear", "conv2d", "conv_transpose1d", "matmul", ...
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
    inputs_first: bool = False  # the weight is (inputs, outputs of a group, *taps)
    position: int = 0  # of its input among the arguments of the call

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution, which writes where others read."""
        return "transpose" in self.op

    @property
    def out_dim(self) -> int:
        """The dimension of the weight that holds the output channels (of one convolution group, if it is 1)."""
        return 1 if self.inputs_first else 0

    @property
    def in_dim(self) -> int:
        """The dimension of the weight that holds the input channels (of one convolution group, if it is 1)."""
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
        return self.shape[self.channel_dim + 1 :] if self.taps else self.shape[1:-1]

    @property
    def channel_dim(self) -> int:
        """The dimension of its input and output that holds the channels."""
        return len(self.shape) - 1 - len(self.taps)


def find_layers(program: Program) -> tuple[Layer, ...]:
    """Return the layers in order. Calls whose weight is computed (parametrised, cut out of another) are none."""
    return tuple(layer for node in program.nodes if (layer := _layer(program, node)) is not None)


def _layer(program: Program, node: Node) -> Layer | None:
    if node.op in _PRODUCTS:
        return _product(program, node)
    if node.op not in RANK:
        return None
    transposed = "transpose" in node.op
    given = dict(zip(argument_names(node.op), node.args, strict=False)) | dict(node.kwargs)
    value, (weight, flipped) = given["input"], _weight(program, given["weight"])
    if not isinstance(value, Ref) or weight is None or (flipped and node.op != "linear"):
        return None
    rank, groups = RANK[node.op], given.get("groups", 1)
    shape = program.shapes[weight]
    kernel = shape[2:]
    stride, dilation = (_each(given.get(k, 1), rank) for k in ("stride", "dilation"))
    inputs_first = transposed or flipped
    return Layer(
        node=node.name,
        op=node.op,
        module=node.module,
        weight=weight,
        bias=_parameter(program, given.get("bias")),
        value=value.name,
        shape=node.tensor_shape(),
        stride=stride,
        padding=_padding(given.get("padding", 0), kernel, dilation),
        dilation=dilation,
        groups=groups,
        width=shape[0] // groups if inputs_first else shape[1],
        taps=tuple(kernel),
        inputs_first=inputs_first,
    )


def _product(program: Program, node: Node) -> Layer | None:
    """The layer that ``x @ weight`` or ``addmm(bias, x, weight)`` is."""
    at = _PRODUCTS[node.op]
    if len(node.args) < at + 2 or node.kwargs:  # scaled: what counts as its weight is not the parameter
        return None
    value, (weight, flipped) = node.args[at], _weight(program, node.args[at + 1])
    if not isinstance(value, Ref) or weight is None or value.name in program.parameters:
        return None
    shape = node.tensor_shape()
    if len(program.shapes[weight]) != 2 or len(shape) < 2:
        return None
    return Layer(
        node=node.name,
        op=node.op,
        module=node.module,
        weight=weight,
        bias=_parameter(program, node.args[0]) if at else None,
        value=value.name,
        shape=shape,
        width=program.shapes[weight][1 if flipped else 0],
        inputs_first=not flipped,
        position=at,
    )


def _weight(program: Program, argument: Any) -> tuple[str | None, bool]:
    """Return the canonical name of the parameter that an argument is, and whether its two dimensions are swapped."""
    flipped = False
    while isinstance(argument, Ref):
        if argument.name in program.parameters:
            return program.parameters[argument.name][0], flipped
        node = program.node(argument.name)
        if node.op not in _FLIPS | IDENTITIES or not isinstance(node.shape, tuple) or len(node.shape) != 2:
            return None, False
        if node.op in _FLIPS:
            flipped ^= node.op != "permute" or [d % 2 for d in node.args[1]] == [1, 0]
        argument = node.args[0]
    return None, False


def _parameter(program: Program, argument: Any) -> str | None:
    if isinstance(argument, Ref) and argument.name in program.parameters:
        return program.parameters[argument.name][0]
    return None


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
