"""What stands in a model where a branch was removed: a constant, and blanks in front of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.ground.errors import SurgeryError

__all__ = ["Constant", "OutputShape", "Removed", "output_shape"]


@dataclass(frozen=True)
class OutputShape:
    """How the shape of a layer's output follows from its input; with windows, if it is a convolution."""

    dim: int  # in which it has its channels
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()  # both sides together
    dilation: tuple[int, ...] = ()

    def __call__(self, x: Tensor, channels: int) -> tuple[int, ...]:
        """Return the shape of the output that has so many channels."""
        sizes = list(x.shape)
        sizes[self.dim] = channels
        for d, (k, s, p, r) in enumerate(zip(self.kernel, self.stride, self.padding, self.dilation), start=2):
            sizes[d] = (sizes[d] + p - r * (k - 1) - 1) // s + 1
        return tuple(sizes)


def output_shape(module: nn.Module, path: str) -> OutputShape:
    """Return how a layer's output shape follows from its input.

    Raises:
        SurgeryError: the layer's type is not known.
    """
    # A subclass of a convolution may pad in its own forward; norms keep the shape whatever they do.
    match module:
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d() if type(module).__module__ == nn.Conv2d.__module__:
            return _conv_shape(module)
        case nn.Linear():
            return OutputShape(-1)
        case nn.LayerNorm() if len(module.normalized_shape) == 1:
            return OutputShape(-1)
        case _BatchNorm() | nn.GroupNorm():
            return OutputShape(1)
    raise SurgeryError(
        f"layer {path} is a {type(module).__name__}, which cannot be taken out of a removed branch: "
        "keep one unit of the group"
    )


def _conv_shape(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> OutputShape:
    kernel, dilation = module.kernel_size, module.dilation
    if module.padding == "same":
        padding = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
    elif isinstance(module.padding, str):
        padding = (0,) * len(kernel)
    else:
        padding = tuple(2 * p for p in module.padding)
    return OutputShape(1, kernel, module.stride, padding, dilation)


class Constant(nn.Module):
    """Yields the same values whatever the input: the output of a branch that has lost all its units.

    ``value`` broadcasts against the branch's output; with a shape it is written out in full.
    """

    def __init__(self, value: Tensor, shape: OutputShape | None, *, trainable: bool = True) -> None:
        super().__init__()
        self.value = nn.Parameter(value, requires_grad=trainable)
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Return the value; of the input only the shape matters."""
        # Always a fresh tensor: an operation in place that follows must not change the parameter.
        if self.shape is None:
            return self.value.clone()
        channels = self.value.shape[1] if self.value.ndim > 1 else self.value.shape[0]
        return self.value.expand(self.shape(x, channels)).clone()


class Removed(nn.Module):
    """Stands for a layer whose output nobody reads: yields a blank of one channel, never its input.

    What lies between it and the constant (activations, pooling) still runs, on next to nothing; were the
    input handed on, an activation in place would change the value that the shortcut reads.
    """

    def __init__(self, shape: OutputShape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros with one channel in the shape of the removed layer's output."""
        return x.new_zeros(self.shape(x, 1))
