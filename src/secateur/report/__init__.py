"""What a run gained: as data, as a table and as one HTML page."""

from .evidence import FrozenPart, LossCurve, frozen_parts, loss_curve
from .page import page, write_page
from .read import read_report
from .report import Accuracy, Report
from .sparsity import Sparsity, zipped_bytes

__all__ = [
    "Accuracy",
    "FrozenPart",
    "LossCurve",
    "Report",
    "Sparsity",
    "frozen_parts",
    "loss_curve",
    "page",
    "read_report",
    "write_page",
    "zipped_bytes",
]
