"""Int8SparseLinear and Int8SparseConv2d: int8 layers that are packed for the kernels. For inference."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from secateur.ground.errors import KernelError

from ..dense import ACTIVATIONS, warn_once
from ..geometry import Window
from ..made import Made
from ..ops import found_library
from ..packing import Activation
from .dense import dense_int8_conv, dense_int8_linear
from .levels import Int8Tensor, Levels
from .ops import numbers_of, packed_of, sparse_int8_conv2d, sparse_int8_linear
from .packing import Int8Packed, pack_int8, unpack_int8
from .run import Int8Prepared, prepare_int8, run_int8_conv, run_int8_linear
from .tables import TABLED

__all__ = ["Int8SparseConv2d", "Int8SparseLinear"]


class _Int8Sparse(Made):
    """A packed layer as buffers, and what is made from it on first use."""

    start: Tensor
    column: Tensor
    values: Tensor
    bias: Tensor
    multiplier: Tensor
    ratio: Tensor | None
    table: Tensor | None

    def __init__(
        self, packed: Int8Packed, taps: tuple[int, ...], x: Levels, y: Levels | None, activation: Activation,
        residual: Levels | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.whole, self.limits, self.floats = numbers_of(packed)
        self.taps, self.x, self.y, self.residual, self.activation = taps, x, y, residual, activation
        for name in ("start", "column", "values", "bias", "multiplier", "ratio", "table"):
            self.register_buffer(name, getattr(packed, name))
        self._made: Int8Prepared | None = None

    @property
    def packed(self) -> Int8Packed:
        """The layer in the kernels' layout."""
        tensors = (self.start, self.column, self.values, self.bias, self.multiplier)
        return packed_of(tensors, self.ratio, self.table, self.whole, self.limits, self.floats)

    def weight(self) -> Tensor:
        """Return the dense weight int8 (outputs, inputs of all groups, *taps)."""
        return unpack_int8(self.packed, self.taps)

    def extra_repr(self) -> str:
        """Say what is stored."""
        rows, columns = self.whole[:2]
        total, height = rows * columns * math.prod(self.taps), self.values.shape[1]
        to = "float32" if self.y is None else "int8"
        return (
            f"{columns}, {rows}, blocks of {height} x 4, {self.values.numel()} of {total} weights stored, "
            f"{self.activation.name.lower()}, to {to}"
        )

    def ready(self) -> Int8Prepared:
        """Return the layer as the kernels take it, checked."""
        if self._made is None:
            self._made = prepare_int8(self.packed, math.prod(self.taps))
        return self._made

    def _words(
        self, x: Int8Tensor, residual: Int8Tensor | None, images: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the words of inputs of the right kind.

        Raises:
            KernelError: other levels than those that were packed, or features for images.
        """
        if (residual is None) != (self.residual is None):
            raise KernelError(
                "This layer was packed without a residual's levels. Remedy: of(..., residual=levels)."
                if self.residual is None
                else "This layer was packed with a residual's levels, and no residual is given."
            )
        given = (("input", x, self.x), ("residual", residual, self.residual))
        for name, tensor, levels in given:
            if tensor is None or (tensor.levels is levels and tensor.images is images):
                continue
            if tensor.levels != levels or tensor.images != images:
                raise KernelError(
                    f"The {name} is {'images' if tensor.images else 'features'} of {tensor.levels}; this layer was "
                    f"packed for {'images' if images else 'features'} of {levels}. Remedy: requantised(...)."
                )
        return x.words, None if residual is None else residual.words

    def result(self, y: Tensor, images: bool) -> Int8Tensor | Tensor:
        """Return an output as what it is; behind floats stand those activations that are no clamp."""
        if self.y is not None:
            return Int8Tensor(y, self.whole[0], self.y, images)
        return ACTIVATIONS[self.activation](y) if self.activation in TABLED else y


def _direct(x: Tensor) -> bool:
    """Whether x is a tensor with numbers that nobody traces."""
    return type(x) is Tensor and not torch.compiler.is_compiling()


class Int8SparseLinear(_Int8Sparse):
    """An int8 linear layer from packed blocks, rescaling and activation fused.

    It takes features of the levels `x` and gives features of the levels `y`, or float32 (..., outputs) without `y`.

    >>> weight = torch.randint(-127, 128, (8, 12), dtype=torch.int8)
    >>> levels = Levels(1 / 255, 0)
    >>> layer = Int8SparseLinear.of(weight, torch.full((8,), 0.01), x=levels)
    >>> x = Int8Tensor.of_features(torch.rand(3, 12), levels)
    >>> torch.allclose(layer(x), x.reals() @ (0.01 * weight.float()).T, atol=1e-4)
    True
    """

    @classmethod
    def of(
        cls, weight: Tensor, scales: Tensor, *, x: Levels, y: Levels | None = None, bias: Tensor | None = None,
        activation: Activation = Activation.NONE, residual: Levels | None = None, height: int | None = None,
    ) -> Int8SparseLinear:  # fmt: skip
        """Pack a weight int8 (outputs, inputs) with a scale for each output; see `pack_int8`."""
        packed = pack_int8(
            weight, scales, x=x, y=y, bias=bias, activation=activation, residual=residual, height=height
        )
        return cls(packed, (), x, y, activation, residual)

    def forward(self, x: Int8Tensor, residual: Int8Tensor | None = None) -> Int8Tensor | Tensor:
        """Multiply, add the residual (of the output's shape), activate."""
        words, added = self._words(x, residual, images=False)
        if not _direct(words):
            y = sparse_int8_linear(
                words, self.start, self.column, self.values, self.bias, self.multiplier, self.ratio, self.table,
                self.whole, self.limits, self.floats, added,
            )  # fmt: skip
            return self.result(y, images=False)
        found = found_library()
        if found.library is None:
            warn_once(found.reason)
            return self.result(dense_int8_linear(self.packed, words, added), images=False)
        return self.result(run_int8_linear(found.library, self.ready(), words, added), images=False)


class Int8SparseConv2d(_Int8Sparse):
    """An int8 convolution from packed blocks, rescaling and activation fused.

    It takes images of the levels `x` and gives images of the levels `y`, or float32 (images, channels, height, width)
    without `y`. Around an image is 0, whatever the levels.

    >>> weight = torch.randint(-127, 128, (8, 4, 3, 3), dtype=torch.int8)
    >>> x, y = Levels(1 / 255, 0), Levels(0.1, 128)
    >>> layer = Int8SparseConv2d.of(weight, torch.full((8,), 0.01), Window((3, 3)), x=x, y=y)
    >>> layer(Int8Tensor.of_images(torch.rand(1, 4, 6, 6), x)).shape
    (1, 8, 4, 4)
    """

    def __init__(
        self, packed: Int8Packed, window: Window, x: Levels, y: Levels | None, activation: Activation,
        residual: Levels | None,
    ) -> None:  # fmt: skip
        super().__init__(packed, window.kernel, x, y, activation, residual)
        self.window = window

    @classmethod
    def of(
        cls, weight: Tensor, scales: Tensor, window: Window, *, x: Levels, y: Levels | None = None,
        bias: Tensor | None = None, activation: Activation = Activation.NONE, residual: Levels | None = None,
        groups: int = 1, height: int | None = None,
    ) -> Int8SparseConv2d:  # fmt: skip
        """Pack a weight int8 (outputs, inputs of a group, height, width), a scale for each output; see `pack_int8`.

        Raises:
            KernelError: the weight is of another kernel than the window, or the kernels cannot take it.
        """
        if tuple(weight.shape[2:]) != window.kernel:
            raise KernelError(
                f"The weight has shape {tuple(weight.shape)}, the window a kernel of {window.kernel}."
            )
        packed = pack_int8(
            weight, scales, x=x, y=y, bias=bias, activation=activation, residual=residual, height=height,
            groups=groups,
        )  # fmt: skip
        return cls(packed, window, x, y, activation, residual)

    def forward(self, x: Int8Tensor, residual: Int8Tensor | None = None) -> Int8Tensor | Tensor:
        """Convolve, add the residual (of the output's shape), activate."""
        words, added = self._words(x, residual, images=True)
        window = self.window
        if not _direct(words):
            y = sparse_int8_conv2d(
                words, self.start, self.column, self.values, self.bias, self.multiplier, self.ratio, self.table,
                self.whole, self.limits, self.floats, window.kernel, window.stride, window.padding, window.dilation,
                added,
            )  # fmt: skip
            return self.result(y, images=True)
        found = found_library()
        if found.library is None:
            warn_once(found.reason)
            return self.result(dense_int8_conv(self.packed, window, words, added), images=True)
        return self.result(run_int8_conv(found.library, self.ready(), window, words, added), images=True)
