"""What is saved: a folder with tensors, plan, recipe and report, or all of it packed into one file; no pickle."""

from .load import load, read
from .manifest import Artefact
from .packed import PackedFile, Quantise, unpack
from .packing import Packed, describe, pack, unpack_to
from .save import save

__all__ = [
    "Artefact",
    "Packed",
    "PackedFile",
    "Quantise",
    "describe",
    "load",
    "pack",
    "read",
    "save",
    "unpack",
    "unpack_to",
]
