"""What a recipe may say of blocks: micro-structures without training, and ADMM."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from secateur.blocks import Block
from secateur.ground.errors import StructureError

from .strict import Positive, Strict

__all__ = ["ADMMSpec", "BlocksSpec", "MicroStructureSpec", "SharesSpec", "WholeSpec"]

Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Above0 = Annotated[float, Field(gt=0, strict=True)]


def _block(text: str) -> str:
    try:
        Block.parse(text)
    except StructureError as error:
        raise ValueError(str(error).rstrip(".")) from None
    return text


BlockText = Annotated[str, AfterValidator(_block)]


class SharesSpec(Strict):
    """The shares of zero and of unified blocks, of all blocks."""

    zero: Share = 0.0
    unify: Share = 0.0

    @model_validator(mode="after")
    def _together(self) -> SharesSpec:
        if self.zero + self.unify > 1 + 1e-12:
            raise ValueError(
                f"zero={self.zero:g} and unify={self.unify:g} are more than all blocks together: both are shares of "
                f"all blocks (half of the rest is unify: {(1 - self.zero) / 2:.3g})"
            )
        return self


class WholeSpec(Strict):
    """Layers that stay whole: all of a class, or those of a place."""

    type: str | None = None  # a name in torch.nn, or module:Class
    place: Literal["first-convolution", "head"] | None = None

    @model_validator(mode="after")
    def _one(self) -> WholeSpec:
        if (self.type is None) == (self.place is None):
            raise ValueError("name exactly one of type and place")
        return self


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


class BlocksSpec(SharesSpec):
    """What blocks become zero or unified, and where: see `secateur.MicroStructured`."""

    zero: Share = 0.7
    block: BlockText = "8x1"
    reshape: Literal["taps", "inputs", "outputs"] = "taps"
    shares: dict[str, SharesSpec] = Field(default_factory=dict)  # of layers, by globs
    blocks: dict[str, BlockText] = Field(default_factory=dict)
    skip: Annotated[tuple[str | WholeSpec, ...], BeforeValidator(_listed)] | None = (
        None  # globs, types, places
    )
    spread: Literal["each-layer", "across-layers"] = "each-layer"
    most: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.95  # zero in a layer, of layers that compete
    assignment: Literal["joint", "prune-first"] = "joint"


class MicroStructureSpec(BlocksSpec):
    """Blocks without training, and what is left solved again: see `secateur.micro_structure`."""

    name: Literal["micro-structure"]
    criterion: Literal["weights", "outputs"] = "weights"
    recovery: Literal["compensate", "none"] = "compensate"
    sweeps: Positive = 8


class ADMMSpec(BlocksSpec):
    """Training towards blocks: see `secateur.ADMM`."""

    name: Literal["admm"]
    epochs: Annotated[int, Field(ge=0, strict=True)] = 12  # of each stage; 0 projects at once
    rhos: Annotated[tuple[Above0, ...], Field(min_length=1)] = (1e-3, 1e-2, 1e-1)
    every: Positive = 1
    tolerance: Annotated[float, Field(ge=0, strict=True)] = 1e-3
    prune_first: bool = False  # zeros in a stage of their own, then unified blocks
    tied: bool = True
