"""What a report shows of a run besides its figures: loss curves, what is left of each weight, what stayed whole."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from safetensors.torch import save
from torch import Tensor, nn

from secateur.graph import Frozen
from secateur.ground.tensors import tied_once

__all__ = [
    "Approach",
    "FrozenPart",
    "LayerBlocks",
    "LossCurve",
    "Sparsity",
    "Structured",
    "frozen_parts",
    "loss_curve",
    "zipped_bytes",
]


ALIKE = 0.98
"""From this share of common blocks on two choices are called the same."""


@dataclass(frozen=True)
class LossCurve:
    """The relative loss of a group when only its first `units` stay, at some numbers of units, ascending.

    The first point has no units, the last has all; the number that the run kept is among them.
    """

    units: tuple[int, ...]
    loss: tuple[float, ...]

    def at(self, units: int) -> float | None:
        """Return the loss at a number of units, None where the curve has no point."""
        return dict(zip(self.units, self.loss)).get(units)


@dataclass(frozen=True)
class FrozenPart:
    """Parameter dimensions that may not shrink for one reason."""

    reason: str
    places: tuple[str, ...]  # "parameter[dimension]"
    sources: tuple[str, ...]  # file and line of the model's code, where known


@dataclass(frozen=True)
class Sparsity:
    """What connection pruning leaves, and the bytes of compressed files. Neither says anything about speed."""

    before: int  # entries of all parameters
    after: int  # of them, not masked nor removed
    zip_before: int  # bytes of the safetensors file, deflated
    zip_after: int
    curve: tuple[tuple[float, float], ...] = ()  # share of the connections and validation metric, as found
    layers: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # parameter: (entries left, before)

    @staticmethod
    def of(
        dense: nn.Module,
        pruned: nn.Module,
        after: int | None = None,
        curve: Iterable[tuple[float, float]] = (),
    ) -> Sparsity:
        """Return what is left of a network whose removed connections are zero or gone.

        `after` counts the connections left; without it, entries that are not zero.

        >>> net = nn.Linear(3, 2)
        >>> Sparsity.of(net, net).layers
        {'weight': (6, 6), 'bias': (2, 2)}
        """
        left = {name: int(p.detach().count_nonzero()) for name, p in pruned.named_parameters()}
        layers = {name: (left.get(name, 0), p.numel()) for name, p in dense.named_parameters()}
        return Sparsity(
            sum(p.numel() for p in dense.parameters()),
            sum(left.values()) if after is None else after,
            zipped_bytes(dense),
            zipped_bytes(pruned),
            tuple(curve),
            layers,
        )


@dataclass(frozen=True)
class LayerBlocks:
    """The blocks of one weight; those that are neither zero nor unified are kept as they were."""

    block: str  # rows x columns (x taps)
    blocks: int
    zero: int
    unified: int


@dataclass(frozen=True)
class Approach:
    """How ADMM came to its blocks, when their choice was last renewed: see `secateur.methods.admm.Residual`."""

    primal: float  # |W - Z| / |W| of what changes
    dual: float  # |Z - Z before| / |W|
    same: float  # share of the kept blocks that were kept before, too
    magnitude: float  # share of the blocks that the given weights' magnitudes keep that are kept

    @property
    def advice(self) -> str:
        """What to do the next time."""
        if self.magnitude < ALIKE:
            return "others than magnitudes choose: compare with ADMM(epochs=0), which trains all epochs under theirs"
        return "magnitudes alone choose these blocks: ADMM(epochs=0) is simpler, and has all epochs to train under them"


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
    approach: Approach | None = None  # of ADMM


def zipped_bytes(model: nn.Module) -> int:
    """Return the size of the safetensors file of a model's parameters and buffers after deflate, as zip and gzip do."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in tied_once(model).items()}
    return len(zlib.compress(save(tensors), 9))


def loss_curve(loss: Tensor, cut: int, points: int = 64) -> LossCurve:
    """Return at most `points` of a loss curve (see `methods.Ranking`), closer together where few units stay.

    >>> import torch
    >>> loss_curve(torch.tensor([1.0, 0.25, 0.0]), cut=1)
    LossCurve(units=(0, 1, 2), loss=(1.0, 0.25, 0.0))
    """
    size = len(loss) - 1
    chosen: Iterable[int] = range(size + 1)
    if size + 1 > points:
        # Half of them evenly, half geometrically: the knee of a wide group lies among its first units.
        even = np.linspace(0, size, points // 2)
        near = np.geomspace(1, size, points - points // 2 - 1)
        chosen = sorted({*even.round().astype(int).tolist(), *near.round().astype(int).tolist(), cut})
    units = tuple(chosen)
    return LossCurve(units, tuple(float(f"{float(loss[k]):.5g}") for k in units))


def frozen_parts(entries: Iterable[Frozen]) -> tuple[FrozenPart, ...]:
    """Return what is frozen by reason, the reason that holds most dimensions first."""
    places: dict[str, list[str]] = {}
    sources: dict[str, dict[str, None]] = {}
    for entry in entries:
        places.setdefault(entry.reason, []).append(f"{entry.parameter}[{entry.dim}]")
        sources.setdefault(entry.reason, {}).update({entry.source: None} if entry.source else {})
    parts = [FrozenPart(reason, tuple(where), tuple(sources[reason])) for reason, where in places.items()]
    return tuple(sorted(parts, key=lambda part: -len(part.places)))
