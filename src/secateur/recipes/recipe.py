"""What a recipe may say: the arguments of `secateur.prune`, and where model and data come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from torch import nn

from secateur.artefact import Quantise
from secateur.export.target import Target
from secateur.ground.errors import RecipeError, SecateurError
from secateur.ground.inputs import BatchDims
from secateur.ground.plain import from_plain, to_plain
from secateur.ground.plain import schema as schema_of
from secateur.measure.metric import Metric
from secateur.methods import ADMM, SNP, OfBlocks, OfWeights
from secateur.methods.misfits import misfits
from secateur.methods.names import names
from secateur.methods.protocol import Method
from secateur.recovery import Distill
from secateur.selection import Budget, Limits
from secateur.training import Teacher, Training, Validation

from . import text

__all__ = [
    "GIVEN",
    "DataSpec",
    "ModelSpec",
    "PackSpec",
    "Recipe",
    "Step",
    "load_recipe",
    "parse_recipe",
    "parse_text",
    "schema",
]


def _unknown(model: nn.Module) -> float:
    """Stand where a run puts what measures a network."""
    raise RecipeError("this recipe is not bound to data")


# What only a run knows: the data of the recipe, and its model, which teaches.
GIVEN: Mapping[tuple[type, str], Any] = {
    (Training, "loader"): (),
    (Validation, "measure"): _unknown,
    (Teacher, "model"): nn.Identity(),
}


@dataclass(frozen=True)
class ModelSpec:
    """The network: ``torchvision:NAME``, ``timm:NAME``, ``zoo:NAME`` or ``module:callable``.

    `kwargs` are arguments of what makes it, `weights` a safetensors file of its state dict.
    """

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None

    @staticmethod
    def parse(name: str) -> ModelSpec:
        """Return a model that has only a name."""
        return ModelSpec(name)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class DataSpec:
    """Where data come from: the name of a data set, the path of an .npz file, or ``module:callable``.

    `kwargs` are arguments of the callable; `calibration` is how many unlabelled samples are drawn by `seed`, in batches
    of `batch`. Methods that train see batches of `train_batch`, of image sets with `augment`. `folder` is where a data
    set lies already.
    """

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    calibration: int = 1000
    batch: int = 250
    seed: int = 0
    train_batch: int = 128
    augment: Literal["none", "shift", "shift-and-mirror"] = "none"
    folder: Path | None = None

    def __post_init__(self) -> None:
        for name in ("calibration", "batch", "train_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        _check_seed(self.seed)

    @staticmethod
    def parse(name: str) -> DataSpec:
        """Return data that have only a name."""
        return DataSpec(name)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class PackSpec:
    """One small file of the artefact, beside its folder: see `secateur.pack`."""

    file: Path
    quantise: Quantise | None = None

    @staticmethod
    def parse(file: str) -> PackSpec:
        """Return the packing of a file without loss."""
        return PackSpec(Path(file))

    def __str__(self) -> str:
        return str(self.file)


@dataclass(frozen=True)
class Step:
    """One method, and what it is given: the arguments of `secateur.prune`.

    With ``calibration: false`` it sees no calibration data. `seed` is the recipe's, where a step has none.
    """

    method: Method
    budget: Budget | None = None
    training: Training | None = None
    limits: Limits = field(default_factory=Limits)
    distill: Distill | None = None
    calibration: bool = True
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_seed(self.seed)

    def check(self, at: str, earlier: bool) -> None:
        """Check that the method is given what it needs, and no more; `at` is where it stands in the recipe.

        Raises:
            RecipeError: it is not.
        """
        for misfit in misfits(
            self.method,
            budget=self.budget,
            calibration=() if self.calibration else None,
            training=self.training,
            limits=self.limits,
            distill=self.distill,
            earlier=earlier,
        ):
            raise RecipeError(f"{at}{misfit.option}: {misfit.why}: {misfit.key}.")
        if isinstance(self.method, OfWeights) and self.training is not None:
            try:
                self.method.check(self.training)
            except SecateurError as error:
                raise RecipeError(f"{at}training: {error}") from error


@dataclass(frozen=True)
class Recipe:
    """A whole run. A recipe is trusted like code: it may name callables of yours, which are then called.

    `example` is the shape of one input batch, where the data do not show it, and `batch_dims` which of its dimensions
    counts samples, where the trace does not find it. `evaluate` names a function that scores a model, and `metric` says
    what the scores mean. `target` is the engine that the network will run in. `then` holds methods that go on from the
    result. `output` is the folder of the artefact. The other keys are those of the first method, as in each entry of
    `then`; `seed` is that of all.
    """

    model: ModelSpec
    data: DataSpec
    method: Method = field(default_factory=SNP)
    budget: Budget | None = None
    training: Training | None = None
    limits: Limits = field(default_factory=Limits)
    distill: Distill | None = None
    calibration: bool = True
    then: tuple[Step, ...] = ()
    example: tuple[int, ...] | None = None
    batch_dims: BatchDims | None = None
    evaluate: Callable[[nn.Module], float] | None = None
    metric: Metric = field(default_factory=Metric)
    target: Target | None = None
    output: Path | None = None
    pack: PackSpec | None = None
    seed: int = 0
    threads: int | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """All methods, in their order."""
        options = {f.name: getattr(self, f.name) for f in fields(Step)}
        return (Step(**options), *self.then)

    def __post_init__(self) -> None:
        if self.example is not None and (not self.example or min(self.example) < 1):
            raise ValueError(f"example={list(self.example)} must hold sizes of at least 1.")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads} must be at least 1.")
        _check_seed(self.seed)
        if self.pack is not None and self.output is None:
            raise ValueError(
                "the key 'output' is missing: the folder of the artefact that 'pack' makes a file of."
            )
        for number, step in enumerate(self.steps):
            earlier = any(before.method.needs.result for before in self.steps[:number])
            step.check(f"then.{number - 1}." if number else "", earlier=earlier)
        _check_turns(self.steps)


def _check_seed(seed: int | None) -> None:
    if seed is not None and seed < 0:
        raise ValueError(f"seed={seed} must be 0 or above.")


def _check_turns(steps: Iterable[Step]) -> None:
    """Check that no method has to undo one before it."""
    zero = unify = 0.0
    for number, step in enumerate(steps):
        method, at = step.method, f"then.{number - 1}.method: "
        if step.budget is not None:
            continue
        if isinstance(method, OfWeights) and unify:
            raise RecipeError(
                f"{at}{method.label} would part the unified blocks of the method before it: train first, unify "
                "afterwards."
            )
        blocks = method.structure if isinstance(method, ADMM) else method
        if isinstance(blocks, OfBlocks) and not blocks.shares:
            if blocks.zero < zero:
                raise RecipeError(
                    f"{at}{method.label} has zero={blocks.zero:g} after zero={zero:g}: zero blocks stay and count, so "
                    f"ask for {zero:g} or more."
                )
            zero, unify = blocks.zero, max(unify, blocks.unify)


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file, apply ``KEY=VALUE`` overrides, and check it.

    Raises:
        RecipeError: it cannot be read, or a key or value is not allowed; the message has the key's path.
    """
    return _checked(text.read(path), overrides)


def parse_text(source: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe's text as `load_recipe` reads a file.

    Raises:
        RecipeError: see `load_recipe`.
    """
    return _checked(text.parse(source), overrides)


def _checked(data: Mapping[str, Any], overrides: Iterable[str]) -> Recipe:
    overrides = tuple(overrides)
    for assignment in overrides:
        data = text.override(data, assignment)
    budget = data.get("budget")
    if overrides and isinstance(budget, dict):
        several = [key for key, value in budget.items() if value is not None]
        if len(several) > 1:
            raise RecipeError(
                f"Recipe: budget: name exactly one of them, not {' and '.join(several)}: "
                f"--set budget.{several[0]}=null takes one away."
            )
    return parse_recipe(data)


def parse_recipe(data: Mapping[str, Any]) -> Recipe:
    """Check plain data and return the recipe that they are.

    Raises:
        RecipeError: a key or value is not allowed; the message has the key's path.

    >>> parse_recipe({"model": "zoo:resnet20-cifar10", "data": "cifar10", "budget": {"macs": 0.5}}).method.label
    'SNP'
    """
    recipe: Recipe = from_plain(Recipe, data, names=names(), given=GIVEN)
    return recipe


def write_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain data, which `parse_recipe` reads; what is not said is left out."""
    data = to_plain(recipe, names=names(), given=GIVEN)
    return {key: value for key, value in data.items() if value not in (None, [], {})}


def schema() -> dict[str, Any]:
    """Return the JSON schema of recipes, with which editors complete and check them."""
    return schema_of(Recipe, names=names(), given=GIVEN)
