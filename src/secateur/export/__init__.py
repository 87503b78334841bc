"""Models in other forms: ONNX, exported programs, and folders of pruned Hugging Face models; each checked."""

from . import target
from .check import Export
from .onnx import to_onnx
from .pretrained import load_pretrained, save_pretrained
from .pt2 import to_exported_program

__all__ = ["Export", "load_pretrained", "save_pretrained", "target", "to_exported_program", "to_onnx"]
