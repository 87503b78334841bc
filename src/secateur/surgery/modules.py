"""What stands in a model where a branch was removed: a constant, and blanks in front of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from secateur.errors import SurgeryError

__all__ = ["Constant", "ConvShape", "LastDim", "OutputShape", "Removed", "SameShape", "output_shape"]


@dataclass(frozen=True)
class ConvShape:
    """The output shape of a convolution over channels in dim 1."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]  # both sides together
    dilation: tuple[int, ...]

    def __call__(self, x: Tensor, channels: int) -> tuple[int, ...]:
        """Return the shape of the output that has so many channels."""
        spatial = tuple(
            (n + p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(x.shape[2:], self.kernel, self.stride, self.padding, self.dilation)
        )
        return (x.shape[0], channels, *spatial)


@dataclass(frozen=True)
class LastDim:
    """The output shape of a linear layer or layer norm: features in the last dim."""

    def __call__(self, x: Tensor, channels: int) -> tuple[int, ...]:
        """Return the shape of the output that has so many features."""
        return (*x.shape[:-1], channels)


@dataclass(frozen=True)
class SameShape:
    """The output shape of a normalisation over channels in dim 1."""

    def __call__(self, x: Tensor, channels: int) -> tuple[int, ...]:
        """Return the shape of the output that has so many channels."""
        return (x.shape[0], channels, *x.shape[2:])


OutputShape = ConvShape | LastDim | SameShape


def output_shape(module: nn.Module, path: str) -> OutputShape:
    """Return how a layer's output shape follows from its input.

    Raises:
        SurgeryError: the layer's type is not known.
    """
    # Exact types: a subclass may pad or reshape in its own forward.
    if type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
        if module.padding == "same":
            padding = tuple(d * (k - 1) for d, k in zip(dilation, kernel))
        elif isinstance(module.padding, str):
            padding = (0,) * len(kernel)
        else:
            padding = tuple(2 * p for p in module.padding)
        return ConvShape(kernel, stride, padding, dilation)
    if type(module) is nn.Linear or (type(module) is nn.LayerNorm and len(module.normalized_shape) == 1):
        return LastDim()
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm):
        return SameShape()
    raise SurgeryError(
        f"layer {path} is a {type(module).__name__}, which cannot be taken out of a removed branch: "
        "keep one unit of the group"
    )


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
