"""Operations: the layer calls of a model as plain data, and random tensors to run them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Operation", "runnable"]

_CALLS: dict[str, Callable[..., Tensor]] = {
    "conv1d": F.conv1d,
    "conv2d": F.conv2d,
    "conv3d": F.conv3d,
    "conv_transpose1d": F.conv_transpose1d,
    "conv_transpose2d": F.conv_transpose2d,
    "conv_transpose3d": F.conv_transpose3d,
}


@dataclass(frozen=True)
class Operation:
    """One call: a convolution, a linear layer, or work on `rows` numbers: ``elementwise`` or ``normalisation``.

    `rows` is the batch of a convolution, all dimensions of a linear layer's input but the last, or the number of
    elements.
    """

    op: str
    rows: int
    inputs: int = 1  # channels, over all convolution groups
    outputs: int = 1
    groups: int = 1
    size: tuple[int, ...] = ()  # of the input behind the channels; for linear and element-wise work empty
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    dtype: str = "float32"
    device: str = "cpu"  # its kind

    @property
    def key(self) -> str:
        """A text that no other operation has.

        >>> Operation("linear", 1, 512, 1000).key
        'linear rows=1 inputs=512 outputs=1000 dtype=float32'
        """
        numbers = {"rows": self.rows}
        if self.kernel or self.op == "linear":
            numbers |= {"inputs": self.inputs, "outputs": self.outputs}
        if self.groups > 1:
            numbers["groups"] = self.groups
        parts = [self.op, *(f"{name}={n}" for name, n in numbers.items())]
        for name in ("size", "kernel", "stride", "padding", "dilation"):
            value = getattr(self, name)
            if value:
                parts.append(f"{name}={'x'.join(map(str, value))}")
        parts.append(f"dtype={self.dtype}")
        return " ".join(parts if self.device == "cpu" else [*parts, f"device={self.device}"])

    @property
    def elements(self) -> int:
        """Size of its input and weight together."""
        return self.rows * self.inputs * prod(self.size) + self.inputs * self.outputs * prod(self.kernel)


def runnable(operation: Operation) -> Callable[[], Tensor]:
    """Return a function that runs an operation on random tensors, without a bias: it adds nothing that matters."""
    o, dtype = operation, getattr(torch, operation.dtype)
    rng = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=rng).to(dtype).to(o.device)

    if o.op == "elementwise":
        x = random(o.rows)
        return lambda: torch.relu(x)
    if o.op == "normalisation":  # of a batch norm, the one that is used where time counts
        x = random(1, -(-o.rows // 64), 8, 8)
        mean, variance = random(x.shape[1]), random(x.shape[1])
        return lambda: F.batch_norm(x, mean, variance, mean, variance)
    if o.op == "linear":
        x, weight = random(o.rows, o.inputs), random(o.outputs, o.inputs)
        return lambda: F.linear(x, weight)
    call, x = _CALLS[o.op], random(o.rows, o.inputs, *o.size)
    options = {
        "stride": o.stride,
        "padding": o.padding,
        "dilation": o.dilation,
        "groups": o.groups,
    }
    if "transpose" in o.op:
        weight = random(o.inputs, o.outputs // o.groups, *o.kernel)
    else:
        weight = random(o.outputs, o.inputs // o.groups, *o.kernel)
    return lambda: call(x, weight, **options)
