"""Int8: layers with zero blocks of rows x 4 whose weights and activations are bytes."""

from .levels import Int8Tensor, Levels
from .modules import Int8SparseConv2d, Int8SparseLinear
from .packing import INT8_HEIGHTS, Int8Packed, flat_weight, pack_int8, unpack_int8

__all__ = [
    "INT8_HEIGHTS",
    "Int8Packed",
    "Int8SparseConv2d",
    "Int8SparseLinear",
    "Int8Tensor",
    "Levels",
    "flat_weight",
    "pack_int8",
    "unpack_int8",
]
