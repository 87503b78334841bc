"""What is saved: a folder with tensors, plan, recipe and report, or all of it packed into one file; no pickle."""

from .load import load, read
from .manifest import Artefact
from .packed import Packed, PackedFile, Quantise, pack, unpack
from .save import save

__all__ = ["Artefact", "Packed", "PackedFile", "Quantise", "load", "pack", "read", "save", "unpack"]
