"""What a run gained, as data, as a table and as JSON."""

from .report import Accuracy, Report

__all__ = ["Accuracy", "Report"]
