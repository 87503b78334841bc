"""What a run gained: as data, as a table and as one HTML page."""

from .evidence import FrozenPart, LossCurve, frozen_parts, loss_curve
from .page import page, write_page
from .read import read_report
from .report import Accuracy, Report
from .sparsity import Sparsity, zipped_bytes
from .structure import LayerBlocks, Structured

__all__ = [
    "Accuracy",
    "FrozenPart",
    "LayerBlocks",
    "LossCurve",
    "Report",
    "Sparsity",
    "Structured",
    "frozen_parts",
    "loss_curve",
    "page",
    "read_report",
    "write_page",
    "zipped_bytes",
]
