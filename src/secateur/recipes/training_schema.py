"""What a recipe may say of training, and of the methods that need it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from .strict import Positive, Strict, named
from .structure_schema import ADMMSpec

__all__ = [
    "GradualMagnitudeSpec",
    "IrrelevanceDecaySpec",
    "LobsterSpec",
    "NNReliefSpec",
    "TrainingMethodSpec",
    "TrainingSpec",
    "WeightDecaySpec",
]

Above0 = Annotated[float, Field(gt=0, strict=True)]
From0 = Annotated[float, Field(ge=0, strict=True)]
Share = Annotated[float, Field(gt=0, le=1, strict=True)]
Part = Annotated[float, Field(gt=0, lt=1, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]


class IrrelevanceDecaySpec(Strict):
    """Decay of the weights that the loss does not depend on."""

    name: Literal["irrelevance-decay"]
    gamma: From0 = 1e-5
    alpha: Above0 = 1.0
    crop: Part = 0.1
    fading: Positive | None = None  # steps over which the decay fades after each crop


class WeightDecaySpec(Strict):
    """L1 or L2 decay, to compare with."""

    name: Literal["weight-decay"]
    gamma: From0 = 1e-5
    p: Literal[1, 2] = 2
    crop: Part = 0.1
    fading: Positive | None = None


class GradualMagnitudeSpec(Strict):
    """The smallest weights go while the network trains, on a cubic schedule."""

    name: Literal["gradual-magnitude"]
    share: Share = 0.2
    every: Positive = 100
    begin: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.0
    end: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.75
    layer_wise: bool = False
    vectors: bool = False


class LobsterSpec(Strict):
    """Decay by sensitivity, thresholds by the loss on the training data."""

    name: Literal["lobster"]
    strength: Annotated[float, Field(ge=0, le=1, strict=True)] = 1e-4
    tolerance: Above0 = 0.05


class NNReliefSpec(Strict):
    """Connections that carry little on real inputs go."""

    name: Literal["nn-relief"]
    alpha_conv: Share = 0.95
    alpha_linear: Share = 0.95
    residual: bool = True
    samples: Positive = 1000


TrainingMethodSpec = (
    IrrelevanceDecaySpec | WeightDecaySpec | GradualMagnitudeSpec | LobsterSpec | NNReliefSpec | ADMMSpec
)


class OptimizerSpec(Strict):
    """A torch optimiser."""

    name: Literal["sgd", "adam", "adamw"] = "adam"
    lr: Above0 = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1, strict=True)] = 0.0  # of sgd, Nesterov's
    weight_decay: From0 = 0.0

    @model_validator(mode="after")
    def _fits(self) -> OptimizerSpec:
        if self.momentum and self.name != "sgd":
            raise ValueError(f"momentum is for sgd, not {self.name}")
        return self


class ConstantSpec(Strict):
    """The optimiser's own learning rate."""

    name: Literal["constant"]


class CosineSpec(Strict):
    """Half a cosine."""

    name: Literal["cosine"]
    warmup: From0 = 0.0
    end: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.0


class MultiStepSpec(Strict):
    """A factor after some epochs."""

    name: Literal["multi-step"]
    epochs: Annotated[tuple[Above0, ...], Field(min_length=1)]
    factor: Part = 0.1


class OneCycleSpec(Strict):
    """Up and down; the optimiser's rate is the peak."""

    name: Literal["one-cycle"]
    rise: Part = 0.3
    start: Annotated[float, Field(ge=1, strict=True)] = 25.0
    end: Annotated[float, Field(ge=1, strict=True)] = 1e4


ScheduleSpec = ConstantSpec | CosineSpec | MultiStepSpec | OneCycleSpec


class BoundSpec(Strict):
    """What the metric stays above: a value, or the dense model's less `drop`."""

    above: Annotated[float, Field(strict=True)] | None = None
    drop: Annotated[float, Field(strict=True)] | None = None

    @model_validator(mode="after")
    def _one(self) -> BoundSpec:
        if (self.above is None) == (self.drop is None):
            raise ValueError("name exactly one of above and drop")
        return self


class CropsSpec(Strict):
    """Pruning within training."""

    every: Positive = 250
    fraction: Part = 0.04


class TeacherSpec(Strict):
    """Learn from the dense network."""

    temperature: Above0 = 4.0
    weight: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.9


def _bound(value: Any) -> Any:
    return {"above": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class TrainingSpec(Strict):
    """How to train between prunings: see `secateur.Training`."""

    epochs: Positive = 1
    iterations: Positive = 1
    finetune: Count = 0
    batch: Positive = 128
    augment: Literal["none", "shift", "shift-and-mirror"] = "none"  # of data sets of the registry
    loss: str | None = None  # module:callable of outputs and labels; without it cross-entropy
    optimizer: Annotated[OptimizerSpec, BeforeValidator(named)] = OptimizerSpec()
    schedule: Annotated[Annotated[ScheduleSpec, Field(discriminator="name")], BeforeValidator(named)] = (
        ConstantSpec(name="constant")
    )
    bound: Annotated[BoundSpec, BeforeValidator(_bound)] | None = None
    patience: Positive | None = None
    crops: CropsSpec | None = None
    teacher: TeacherSpec | None = None
    rewind: Path | None = None  # safetensors of the weights that survivors are trained from again
    accumulate: Positive = 1  # batches a step
    bf16: bool = False
    checkpoints: Path | None = None  # default: OUTPUT.run
    every: Positive | None = None  # steps between checkpoints, besides those after each epoch
