"""What a recipe may say. Unknown keys are errors that name the key and the closest known one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, model_validator

from secateur.ground.errors import RecipeError, did_you_mean

from . import structure_schema, text, training_schema
from .strict import Positive, Seed, Strict, TypeName, named
from .structure_schema import BlocksSpec, MicroStructureSpec
from .training_schema import TrainingMethodSpec, TrainingSpec

__all__ = [
    "BatchNormScaleSpec",
    "BudgetSpec",
    "DataSpec",
    "DistillSpec",
    "MagnitudeSpec",
    "MethodSpec",
    "ModelSpec",
    "PackSpec",
    "RandomSpec",
    "Recipe",
    "SNPPaperSpec",
    "SNPSpec",
    "Step",
    "TaylorSpec",
    "TypeName",
    "load_recipe",
    "parse_recipe",
]


class ModelSpec(Strict):
    """The network: ``torchvision:NAME``, ``timm:NAME``, ``zoo:NAME`` or ``module:callable``."""

    name: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    weights: Path | None = None  # safetensors of its state dict


class DataSpec(Strict):
    """Calibration data: a registry name, the path of an .npz file, or ``module:callable``."""

    name: str
    kwargs: dict[str, Any] = Field(default_factory=dict)  # of the callable
    calibration: Positive = 1000  # unlabelled samples
    batch: Positive = 250
    seed: Seed = 0  # of the draw
    folder: Path | None = None  # where a registry data set lies already


class BudgetSpec(Strict):
    """Exactly one target. Up to 1.0 a share that is kept, above 1 an absolute number; milliseconds have their own."""

    macs: Annotated[float, Field(gt=0, strict=True)] | None = None
    params: Annotated[float, Field(gt=0, strict=True)] | None = None
    variance: Annotated[float, Field(gt=0, le=1, strict=True)] | None = None
    bytes: Annotated[float, Field(gt=0, strict=True)] | None = None
    latency: Annotated[float, Field(gt=0, le=1, strict=True)] | None = None
    latency_ms: Annotated[float, Field(gt=0, strict=True)] | None = None
    weights: Annotated[float, Field(gt=0, strict=True)] | None = None

    @model_validator(mode="after")
    def _one(self) -> BudgetSpec:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"name exactly one of {', '.join(type(self).model_fields)}, not {' and '.join(given) or 'none'} "
                "(--set budget.NAME=null takes one away)"
            )
        return self


class SNPSpec(Strict):
    """Subspace node pruning with the default improvements; order and recovery can be exchanged."""

    name: Literal["snp"]
    order: Literal["output", "zca", "conditional", "pivot", "variance", "weights"] = "output"
    recovery: Literal["sequential", "one-pass", "none"] = "sequential"
    sweeps: Annotated[int, Field(ge=3, strict=True)] = 8  # passes over the calibration data, at most


class SNPPaperSpec(Strict):
    """Subspace node pruning as published."""

    name: Literal["snp-paper"]


class MagnitudeSpec(Strict):
    """Filter norms: L1 or L2, with or without least-squares recovery."""

    name: Literal["magnitude"]
    p: Literal[1, 2] = 1
    recover: bool = True


class RandomSpec(Strict):
    """Random units, with or without least-squares recovery."""

    name: Literal["random"]
    seed: Seed = 0
    recover: bool = True


class BatchNormScaleSpec(Strict):
    """BatchNorm gains, with or without least-squares recovery."""

    name: Literal["batch-norm-scale"]
    recover: bool = True


class TaylorSpec(Strict):
    """First-order change of a loss, or of the outputs, with or without least-squares recovery."""

    name: Literal["taylor"]
    loss: str | None = None  # module:callable of outputs and labels; without it no labels are needed
    recover: bool = True


MethodSpec = SNPSpec | SNPPaperSpec | MagnitudeSpec | RandomSpec | BatchNormScaleSpec | TaylorSpec


class DistillSpec(Strict):
    """Gradient steps after recovery, without labels: see `secateur.Distill`."""

    steps: Positive = 200
    lr: Annotated[float, Field(gt=0, strict=True)] = 1e-3
    batch: Positive = 32
    seconds: Annotated[float, Field(gt=0, strict=True)] | None = None  # ends the run as well, by the clock


class PackSpec(Strict):
    """One small file of the artefact, beside its folder: see `secateur.pack`."""

    file: Path
    bits: Literal[16, 8, 4] | None = None  # without them nothing is lost
    exclude: tuple[str, ...] = ()  # globs: tensors that stay exact
    smallest: bool = False

    @model_validator(mode="after")
    def _fits(self) -> PackSpec:
        if self.exclude and self.bits is None:
            raise ValueError("exclude says what bits leave exact: add bits")
        return self


def _filed(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


AnyMethodSpec = Annotated[
    Annotated[MethodSpec | MicroStructureSpec | TrainingMethodSpec, Field(discriminator="name")],
    BeforeValidator(named),
]


class Step(Strict):
    """One method, and what it needs."""

    method: AnyMethodSpec
    budget: BudgetSpec | None = None
    training: TrainingSpec | None = None

    @model_validator(mode="after")
    def _fits(self) -> Step:
        name, trains = self.method.name, isinstance(self.method, TrainingMethodSpec)
        if trains != (self.training is not None):
            raise ValueError(
                f"{name} prunes while it trains: say how under the key 'training'"
                if trains
                else f"{name} prunes without training: leave the key 'training' out"
            )
        if isinstance(self.method, MethodSpec) and self.budget is None:
            raise ValueError("the key 'budget' is missing")
        if isinstance(self.method, structure_schema.ADMMSpec) and self.budget is not None:
            raise ValueError("admm prunes to the shares of its blocks: leave the key 'budget' out")
        shares = self.budget is None or self.budget.macs is not None or self.budget.bytes is not None
        if isinstance(self.method, MicroStructureSpec) and not shares:
            raise ValueError("micro-structure is budgeted in shares of macs or bytes")
        return self


def _later(step: Step) -> Step:
    if isinstance(step.method, MethodSpec):
        raise ValueError(f"{step.method.name} removes units, which only the first method may")
    return step


class Recipe(Strict):
    """A whole run. A recipe is trusted like code: it may name callables of yours, which are then called."""

    model: Annotated[ModelSpec, BeforeValidator(named)]
    example: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None  # shape of one input batch
    data: Annotated[DataSpec, BeforeValidator(named)]
    evaluate: str | None = None  # module:callable, called with a model; a higher value is better
    method: AnyMethodSpec = SNPSpec(name="snp")
    budget: BudgetSpec | None = None  # methods that train, and blocks, may go without
    training: TrainingSpec | None = None
    then: tuple[Annotated[Step, AfterValidator(_later)], ...] = ()  # methods that go on from the result
    exclude: tuple[str | TypeName, ...] = ()  # module paths as globs, or classes
    keep: dict[str, Annotated[float, Field(gt=0, strict=True)]] = Field(
        default_factory=dict
    )  # globs: share or units
    round_to: Positive = 1
    floor: Positive = 1
    uniform: bool = False  # groups of one kind and size keep the same number of units
    streams: bool = False  # residual streams may lose units
    distill: DistillSpec | None = None
    output: Path | None = None
    pack: Annotated[PackSpec, BeforeValidator(_filed)] | None = None
    seed: Seed = 0
    threads: Positive | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """All methods, in their order."""
        return (Step(method=self.method, budget=self.budget, training=self.training), *self.then)

    @model_validator(mode="after")
    def _whole(self) -> Recipe:
        try:
            _ = self.steps
        except ValidationError as error:
            raise ValueError(str(error.errors()[0]["ctx"]["error"])) from None
        _check_turns(self.steps)
        if self.pack is not None and self.output is None:
            raise ValueError(
                "the key 'output' is missing: the folder of the artefact that 'pack' makes a file of"
            )
        if isinstance(self.method, MethodSpec):
            return self
        given = self.model_fields_set & _OF_UNITS
        if unused := [key for key in sorted(given) if getattr(self, key)]:
            raise ValueError(f"{self.method.name} has no use for the key {unused[0]!r}: leave it out")
        return self


def _check_turns(steps: Iterable[Step]) -> None:
    """Check that no method has to undo one before it."""
    zero = unify = 0.0
    for method in (step.method for step in steps if step.budget is None):
        if isinstance(method, TrainingMethodSpec) and unify:
            raise ValueError(
                f"{method.name} would part the unified blocks of the method before it: train first, unify afterwards"
            )
        if isinstance(method, BlocksSpec) and not method.shares:
            if method.zero < zero:
                raise ValueError(
                    f"{method.name} has zero={method.zero:g} after zero={zero:g}: zero blocks stay and count, so ask "
                    f"for {zero:g} or more"
                )
            zero, unify = method.zero, max(unify, method.unify)


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file, apply ``KEY=VALUE`` overrides, and check it.

    Raises:
        RecipeError: it cannot be read, or a key or value is not allowed; the message has the key's path.
    """
    data = text.read(path)
    for assignment in overrides:
        data = text.override(data, assignment)
    return parse_recipe(data)


def parse_recipe(data: dict[str, Any]) -> Recipe:
    """Check plain data against the schema.

    Raises:
        RecipeError: a key or value is not allowed; the message has the key's path.

    >>> parse_recipe({"model": "zoo:resnet20-cifar10", "data": "cifar10", "budget": {"macs": 0.5}}).method.name
    'snp'
    """
    try:
        return Recipe.model_validate(data)
    except ValidationError as e:
        raise RecipeError(
            "Recipe: " + " Also: ".join(_describe(error) for error in e.errors() if _relevant(error))
        ) from e


_OF_UNITS = {"exclude", "keep", "uniform", "streams", "distill"}
_METHODS: dict[str, type[BaseModel]] = {
    "snp": SNPSpec,
    "snp-paper": SNPPaperSpec,
    "magnitude": MagnitudeSpec,
    "random": RandomSpec,
    "batch-norm-scale": BatchNormScaleSpec,
    "taylor": TaylorSpec,
    "micro-structure": MicroStructureSpec,
    "irrelevance-decay": training_schema.IrrelevanceDecaySpec,
    "weight-decay": training_schema.WeightDecaySpec,
    "gradual-magnitude": training_schema.GradualMagnitudeSpec,
    "lobster": training_schema.LobsterSpec,
    "nn-relief": training_schema.NNReliefSpec,
    "admm": structure_schema.ADMMSpec,
}
_INNER: dict[str, type[BaseModel]] = {
    "model": ModelSpec,
    "data": DataSpec,
    "budget": BudgetSpec,
    "distill": DistillSpec,
    "exclude": TypeName,
    "training": TrainingSpec,
    "pack": PackSpec,
    "then": Step,
}
_FORMS = {"TypeName", "WholeSpec"}  # of an entry that may be a text or a mapping


def _describe(error: Any) -> str:
    """Say one of pydantic's errors as a sentence."""
    location = [str(part) for part in error["loc"] if not _form(part)]
    if not location:
        return f"{error['ctx']['error']}."
    known: type[BaseModel] = next((_INNER[part] for part in location[-2::-1] if part in _INNER), Recipe)
    at = location.index("method") + 1 if "method" in location else len(location)
    if at < len(location) and location[at] in _METHODS:
        known = _METHODS[location.pop(at)]
    path, value = ".".join(location), error["input"]
    match error["type"]:
        case "extra_forbidden":
            names = ", ".join(known.model_fields)
            return f"unknown key {path!r}; known: {names}.{did_you_mean(location[-1], known.model_fields)}"
        case "missing":
            return f"the key {path!r} is missing."
        case "union_tag_not_found":
            return f"the key '{path}.name' is missing; known: {', '.join(_METHODS)}."
        case "union_tag_invalid":
            name = str(error["ctx"]["tag"])
            return f"{path}: no method is called {name!r}; known: {', '.join(_METHODS)}.{did_you_mean(name, _METHODS)}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"{path}: expected a mapping, not {value!r}."
        case "tuple_type":
            return f"{path}: expected a list, not {value!r}."
        case "value_error":
            return f"{path}: {error['ctx']['error']}."
        case _:
            message = str(error["msg"])
            return f"{path}: {message[:1].lower() + message[1:]}, not {value!r}."


def _relevant(error: Any) -> bool:
    """Say whether an error belongs to the form that was meant, where text and a mapping are both allowed."""
    if not error["loc"]:
        return True
    tail = error["loc"][-1]
    if tail == "str":
        return not isinstance(error["input"], dict)
    return not _form(tail) or error["type"] == "value_error"


def _form(part: Any) -> bool:
    """Say whether a part of a location names a form of an entry, and no key; a checked class has a longer name."""
    return part == "str" or any(form in str(part).split("[")[-1] for form in _FORMS)
