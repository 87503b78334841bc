"""Runtime: compiled CPU kernels for weights with zero or unified blocks, and the layers that use them."""

from .compiled import Compiled, compile
from .library import INSTRUCTION_SETS, find_library, kernels
from .load import load
from .modules import SparseConv2d, SparseLinear
from .packing import HEIGHTS, Activation, Packed, best_height, pack, unpack
from .timer import BlockTimer, CompiledTimer, TimedLayers
from .unified import pack_unified, unpack_unified

__all__ = [
    "HEIGHTS",
    "INSTRUCTION_SETS",
    "Activation",
    "BlockTimer",
    "Compiled",
    "CompiledTimer",
    "Packed",
    "SparseConv2d",
    "SparseLinear",
    "TimedLayers",
    "best_height",
    "compile",
    "find_library",
    "kernels",
    "load",
    "pack",
    "pack_unified",
    "unpack",
    "unpack_unified",
]
