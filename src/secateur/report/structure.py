"""What micro-structures leave of a network: blocks by layer, counted bits and multiplications."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["LayerBlocks", "Structured"]


@dataclass(frozen=True)
class LayerBlocks:
    """The blocks of one weight."""

    block: str
    blocks: int
    zero: int
    unified: int


@dataclass(frozen=True)
class Structured:
    """Shares of the bits and multiplications of a dense network of the same shapes, all included; blocks by layer.

    Counted, not measured: torch stores and multiplies zeros and unified weights like any others.
    """

    stored_bits: float
    coded_bits: float
    operations: float
    layers: Mapping[str, LayerBlocks] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)  # weights that stayed whole, and why
