"""The ground under all rooms: errors, inputs, files, progress, several processes, plain data."""

from . import errors

__all__ = ["errors"]
