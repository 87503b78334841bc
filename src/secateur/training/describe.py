"""Moved to `secateur.ground.describe`."""

from secateur.ground.describe import describe

__all__ = ["describe"]
