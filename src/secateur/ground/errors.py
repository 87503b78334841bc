"""The exceptions of secateur: one tree, every message names the thing at fault and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "LAYOUT",
    "ArtefactError",
    "BoundError",
    "BudgetError",
    "CalibrationError",
    "CheckpointError",
    "DataError",
    "ExportError",
    "KernelError",
    "MetricError",
    "RecipeError",
    "SecateurError",
    "StructureError",
    "SurgeryError",
    "TraceError",
    "TrainingError",
    "UnknownNameError",
    "UsageError",
    "did_you_mean",
    "printable",
]


LAYOUT = "\n\t\u00a0\u202f"
"""White space in messages and tables that a terminal is shown: lines, tabs and spaces that do not break."""


class SecateurError(Exception):
    """The root of all errors that secateur raises on purpose.

    Messages have names of layers, files and keys in them, which may be anything: what a terminal obeys is escaped.

    >>> print(SecateurError("no layer a\\x1b[2J"))
    no layer a\\x1b[2J
    """

    layout: ClassVar[str] = LAYOUT

    def __str__(self) -> str:
        return printable(super().__str__(), keep=self.layout)


class UsageError(SecateurError, TypeError, ValueError):
    """Arguments do not go together, or one is missing or of the wrong kind; the message says what to give."""


class TraceError(SecateurError):
    """The model cannot be exported; the message says at which operation and what to change."""


class CalibrationError(SecateurError):
    """Calibration data are empty, of the wrong shape, or make activations that are not finite."""


class BudgetError(SecateurError):
    """A budget is out of range, or the model cannot reach it; the message says how far it can go."""


class UnknownNameError(SecateurError):
    """A layer pattern, model or data set is not known; the message says which name is closest."""


class RecipeError(SecateurError):
    """A recipe has an unknown key or a value of the wrong kind."""


class StructureError(SecateurError):
    """A block does not fit a weight, shares of blocks are out of range, or a weight does not obey its pattern."""


class SurgeryError(SecateurError):
    """A plan does not fit the model, or the smaller model does not compute what was predicted."""


class TrainingError(SecateurError):
    """An option of training is out of range, masks do not fit, or gradients are unusable; what to change is said."""


class BoundError(SecateurError):
    """No network of a training run was above the metric bound; the message says how close one came."""


class CheckpointError(SecateurError):
    """A run cannot be kept or resumed: its folder, its checkpoint or its recipe is not what it was. In one line."""

    layout = ""


class ArtefactError(SecateurError):
    """A saved artefact is missing, truncated, hostile, too new, or made for another model. In one line."""

    layout = ""


class ExportError(SecateurError):
    """A model cannot be written in another form, or computes something else there; nothing was written."""


class MetricError(SecateurError):
    """A score is not one finite number of the kind that its metric promises; the message says what to return."""


class DataError(SecateurError):
    """A data set cannot be had, or its content does not have the right hash."""


class KernelError(SecateurError):
    """The compiled kernels are not there, or cannot take a weight or an input; the message says which and why."""


def printable(text: str, keep: str = "") -> str:
    """Return a text with everything escaped that a terminal would obey: colours, directions of writing, line ends.

    >>> print(printable("a\\x1b[2J\\nb"))
    a\\x1b[2J\\nb
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, or an empty string.

    >>> did_you_mean("macz", ["macs", "params"])
    " Did you mean 'macs'?"
    >>> did_you_mean("zzz", ["macs"])
    ''
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
