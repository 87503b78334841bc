"""From what a recipe says of blocks to methods."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.blocks import SKIPPED, Block, Joint, Place, PruneFirst, Reshape, Skip
from secateur.methods import (
    ADMM,
    AcrossLayers,
    Criterion,
    EachLayer,
    MicroStructured,
    OutputError,
    Shares,
    WeightError,
)
from secateur.recovery import Compensate

from .registry import resolve_type
from .strict import TypeName
from .structure_schema import ADMMSpec, BlocksSpec, MicroStructureSpec, WholeSpec

__all__ = ["admm_of", "compensation_of", "criterion_of", "structure_of"]

_PLACES: Mapping[str, Place] = {"first-convolution": Place.FIRST_CONVOLUTION, "head": Place.HEAD}


def structure_of(spec: BlocksSpec) -> MicroStructured:
    """Return the blocks that a recipe describes.

    Raises:
        UnknownNameError: a class of layers to skip cannot be found.
        StructureError: the reshape does not go with the block.
    """
    return MicroStructured(
        _block(spec.block, spec),
        spec.zero,
        spec.unify,
        shares={glob: Shares(s.zero, s.unify) for glob, s in spec.shares.items()},
        blocks={glob: _block(text, spec) for glob, text in spec.blocks.items()},
        skip=SKIPPED if spec.skip is None else tuple(_skip(entry) for entry in spec.skip),
        assignment=Joint() if spec.assignment == "joint" else PruneFirst(),
        spread=EachLayer() if spec.spread == "each-layer" else AcrossLayers(spec.most),
    )


def criterion_of(spec: MicroStructureSpec) -> Criterion:
    """Return what prices blocks."""
    return WeightError() if spec.criterion == "weights" else OutputError()


def compensation_of(spec: MicroStructureSpec) -> Compensate | None:
    """Return what solves the rest again, if anything does."""
    return Compensate(spec.sweeps) if spec.recovery == "compensate" else None


def admm_of(spec: ADMMSpec) -> ADMM:
    """Return the training towards blocks that a recipe describes. Raises as `structure_of`."""
    options = {"rhos": spec.rhos, "every": spec.every, "tolerance": spec.tolerance, "tied": spec.tied}
    make = ADMM.prune_first if spec.prune_first else ADMM
    return make(structure_of(spec), spec.epochs, **options)  # type: ignore[arg-type]


def _block(text: str, spec: BlocksSpec) -> Block:
    block = Block.parse(text)
    return Block(block.rows, block.columns, block.taps, Reshape(spec.reshape))


def _skip(entry: str | WholeSpec) -> Skip:
    if isinstance(entry, str):
        return entry
    if entry.place is not None:
        return _PLACES[entry.place]
    assert entry.type is not None
    return resolve_type(TypeName(type=entry.type))
