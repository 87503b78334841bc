"""What a run gained: as data, as text, as one HTML page, in a notebook and as a model card."""

from .card import model_card
from .evidence import (
    Approach,
    FrozenPart,
    LayerBlocks,
    LossCurve,
    Sparsity,
    Structured,
    frozen_parts,
    loss_curve,
    zipped_bytes,
)
from .findings import Findings, Scores
from .page import page, write_page
from .read import read_report
from .report import Report

__all__ = [
    "Approach",
    "Findings",
    "FrozenPart",
    "LayerBlocks",
    "LossCurve",
    "Report",
    "Scores",
    "Sparsity",
    "Structured",
    "frozen_parts",
    "loss_curve",
    "model_card",
    "page",
    "read_report",
    "write_page",
    "zipped_bytes",
]
