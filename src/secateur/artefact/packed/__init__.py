"""One file for a network: blocks, signs and codes instead of dense tensors (docs/format.md)."""

from .blocks import Blocks
from .quantise import Quantise
from .read import PackedFile, unpack
from .write import write_packed

__all__ = ["Blocks", "PackedFile", "Quantise", "unpack", "write_packed"]
