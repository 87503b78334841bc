"""One file for a network: blocks, signs and codes instead of dense tensors (docs/format.md)."""

from .blocks import Blocks
from .pack import Packed, PackedTensor, describe, pack, unpack_to
from .quantise import Quantise
from .read import PackedFile, unpack

__all__ = [
    "Blocks",
    "Packed",
    "PackedFile",
    "PackedTensor",
    "Quantise",
    "describe",
    "pack",
    "unpack",
    "unpack_to",
]
