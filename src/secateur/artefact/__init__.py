"""What is saved: a folder with tensors, plan, recipe and report, and no pickle."""

from .load import load, read
from .manifest import Artefact
from .save import save

__all__ = ["Artefact", "load", "read", "save"]
