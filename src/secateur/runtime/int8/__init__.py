"""Int8: layers with zero blocks of rows x 4 whose weights and activations are bytes."""

from .chain import Int8Chain
from .levels import Int8Tensor, Levels
from .modules import Int8SparseConv2d, Int8SparseLinear
from .packing import INT8_HEIGHTS, Int8Packed, flat_weight, pack_int8, unpack_int8
from .pointwise import added, concatenated, requantised
from .pool import Int8AveragePool2d, Int8MaxPool2d, global_average
from .steps import Int8Add, Int8Features, Int8GlobalAverage, Int8Requantise

__all__ = [
    "INT8_HEIGHTS",
    "Int8Add",
    "Int8AveragePool2d",
    "Int8Chain",
    "Int8Features",
    "Int8GlobalAverage",
    "Int8MaxPool2d",
    "Int8Packed",
    "Int8Requantise",
    "Int8SparseConv2d",
    "Int8SparseLinear",
    "Int8Tensor",
    "Levels",
    "added",
    "concatenated",
    "flat_weight",
    "global_average",
    "pack_int8",
    "requantised",
    "unpack_int8",
]
