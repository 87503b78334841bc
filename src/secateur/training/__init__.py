"""Pruning while a network trains: masks, and methods that work through the optimiser's own step hooks."""

from .hooks import Attached, Rule, Step, attach
from .masks import Masks
from .protocol import Attachment, TrainingMethod

__all__ = ["Attached", "Attachment", "Masks", "Rule", "Step", "TrainingMethod", "attach"]
