"""SparseLinear and SparseConv2d: layers whose weight is packed for the kernels. For inference."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from secateur.ground.errors import KernelError

from .dense import dense_conv, dense_linear, warn_once
from .geometry import Window
from .made import Made
from .memory import Memory
from .ops import dense_bias, dense_weight, found_library, sparse_conv2d, sparse_linear
from .packing import Activation, Packed, pack
from .run import Prepared, prepare, run_conv, run_linear
from .unified import pack_unified

__all__ = ["SparseConv2d", "SparseLinear", "window_of"]


class _Sparse(Made):
    """A packed matrix as buffers, and what is made from it on first use; `memory` is where outputs come from."""

    memory: Memory | None = None

    first: Tensor
    count: Tensor
    start: Tensor
    column: Tensor
    values: Tensor
    bias: Tensor

    def __init__(
        self, packed: Packed, taps: tuple[int, ...], groups: int, activation: Activation, add_last: bool
    ):
        super().__init__()
        self.rows, self.columns, self.planes = packed.rows, packed.columns, packed.planes
        self.taps, self.groups, self.activation, self.add_last = taps, groups, activation, add_last
        for name, tensor in packed.tensors().items():
            self.register_buffer(name, tensor)
        self._made: Prepared | tuple[Tensor, Tensor] | None = None

    @property
    def packed(self) -> Packed:
        """The matrix in the kernels' layout."""
        return Packed(
            self.first, self.count, self.start, self.column, self.values, self.bias, self.rows, self.columns,
            self.planes,
        )  # fmt: skip

    def dense(self) -> tuple[Tensor, Tensor]:
        """Return the dense weight and bias."""
        return dense_weight(self.packed, self.taps, self.groups), dense_bias(self.packed)

    def extra_repr(self) -> str:
        """Say what is stored."""
        total = self.rows * self.columns // self.groups * math.prod(self.taps)
        kind = "unified 1x4 blocks" if self.planes else f"blocks of {self.values.shape[1]} x 1"
        stored = self.values.numel()
        return (
            f"{self.columns}, {self.rows}, {kind}, {stored} of {total} weights stored, "
            f"{self.activation.name.lower()}"
        )

    def ready(self) -> Prepared | tuple[Tensor, Tensor]:
        """Return the C structure, or without kernels the dense weight and bias."""
        if self._made is None:
            found = found_library()
            prepared = prepare(self.packed, math.prod(self.taps), self.activation, self.add_last)
            if found.library is None:
                warn_once(found.reason)
                self._made = self.dense()
            else:
                self._made = prepared
        return self._made

    @staticmethod
    def _direct(x: Tensor) -> bool:
        """Whether x is a tensor with numbers that nobody traces.

        Raises:
            KernelError: it wants a gradient.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            raise KernelError(
                "Packed layers have no gradient. Remedy: torch.inference_mode(), or the dense model."
            )
        return type(x) is Tensor and not torch.compiler.is_compiling()


class SparseLinear(_Sparse):
    """A linear layer from a packed matrix, its activation fused: (..., inputs) float32 to (..., outputs).

    >>> layer = nn.Linear(32, 16)
    >>> _ = layer.weight.data[:8].zero_()
    >>> fast = SparseLinear.of(layer, height=8, activation=Activation.RELU)
    >>> x = torch.randn(5, 32)
    >>> with torch.inference_mode():
    ...     torch.allclose(fast(x), layer(x).relu(), atol=1e-5)
    True
    """

    def __init__(
        self, packed: Packed, activation: Activation = Activation.NONE, add_last: bool = False
    ) -> None:
        super().__init__(packed, (), 1, activation, add_last)

    @classmethod
    def of(
        cls, layer: nn.Linear, *, height: int | None = None, unified: bool = False,
        activation: Activation = Activation.NONE, add_last: bool = False,
    ) -> SparseLinear:  # fmt: skip
        """Pack a linear layer, by blocks of `height` rows (None: the cheapest) or by unified 1x4 blocks."""
        packed = (
            pack_unified(layer.weight, layer.bias)
            if unified
            else pack(layer.weight, layer.bias, height=height)
        )
        return cls(packed, activation, add_last)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply, add the residual (of the output's shape), activate."""
        if self._direct(x):
            made = self.ready()
            if isinstance(made, Prepared):
                library = found_library().library
                assert library is not None
                return run_linear(library, made, x, residual, self.memory)
            return dense_linear(x, *made, self.activation, residual, self.add_last)
        y: Tensor = sparse_linear(
            x, self.first, self.count, self.start, self.column, self.values, self.bias, self.rows, self.columns,
            self.planes, int(self.activation), residual, self.add_last,
        )  # fmt: skip
        return y


class SparseConv2d(_Sparse):
    """A convolution from a packed matrix, its activation fused: (batch, channels, height, width) float32.

    >>> layer = nn.Conv2d(8, 16, 3, stride=2, padding=1)
    >>> _ = layer.weight.data[4:12].zero_()
    >>> fast = SparseConv2d.of(layer, height=4)
    >>> x = torch.randn(2, 8, 9, 9)
    >>> with torch.inference_mode():
    ...     torch.allclose(fast(x), layer(x), atol=1e-5)
    True
    """

    def __init__(
        self, packed: Packed, window: Window, groups: int = 1, activation: Activation = Activation.NONE,
        add_last: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(packed, window.kernel, groups, activation, add_last)
        self.window = window

    @classmethod
    def of(
        cls, layer: nn.Conv2d, *, height: int | None = None, unified: bool = False,
        activation: Activation = Activation.NONE, add_last: bool = False,
    ) -> SparseConv2d:  # fmt: skip
        """Pack a convolution, by blocks of `height` output channels (None: the cheapest) or by unified 1x4 blocks.

        Raises:
            KernelError: it pads with something else than zeros, or the kernels cannot take its weight.
        """
        if layer.padding_mode != "zeros":
            raise KernelError(
                f"The kernels pad with zeros; this layer has padding_mode={layer.padding_mode!r}."
            )
        packed = (
            pack_unified(layer.weight, layer.bias, groups=layer.groups)
            if unified
            else pack(layer.weight, layer.bias, height=height, groups=layer.groups)
        )
        return cls(packed, window_of(layer), layer.groups, activation, add_last)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Convolve, add the residual (of the output's shape), activate."""
        window = self.window
        if self._direct(x):
            made = self.ready()
            if isinstance(made, Prepared):
                library = found_library().library
                assert library is not None
                return run_conv(library, made, window, x, residual, self.memory)
            return dense_conv(x, *made, window, self.groups, self.activation, residual, self.add_last)
        y: Tensor = sparse_conv2d(
            x, self.first, self.count, self.start, self.column, self.values, self.bias, self.rows, self.columns,
            self.planes, window.kernel, window.stride, window.padding, window.dilation, self.groups,
            int(self.activation), residual, self.add_last,
        )  # fmt: skip
        return y


def window_of(layer: nn.Conv2d) -> Window:
    """Return what a convolution reads."""
    return Window.of(layer.kernel_size, layer.stride, layer.padding, layer.dilation)
