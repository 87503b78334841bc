"""secateur makes trained PyTorch networks really smaller and really faster, and proves it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Result, prune
    from .artefact import load
    from .errors import SecateurError
    from .graph import trace
    from .methods import SNP, BatchNormScale, Magnitude, Random, Taylor
    from .recovery import Distill, OnePass, Sequential, distillation_loss, finetune
    from .selection import Budget
    from .training import GradualMagnitude, IrrelevanceDecay, Lobster, Masks, NNRelief, WeightDecay

__all__ = [
    "SNP",
    "BatchNormScale",
    "Budget",
    "Distill",
    "GradualMagnitude",
    "IrrelevanceDecay",
    "Lobster",
    "Magnitude",
    "Masks",
    "NNRelief",
    "OnePass",
    "Random",
    "Result",
    "SecateurError",
    "Sequential",
    "Taylor",
    "WeightDecay",
    "distillation_loss",
    "finetune",
    "load",
    "prune",
    "trace",
]

_HOMES = {
    "api": ("Result", "prune"),
    "artefact": ("load",),
    "errors": ("SecateurError",),
    "graph": ("trace",),
    "methods": ("SNP", "BatchNormScale", "Magnitude", "Random", "Taylor"),
    "recovery": ("Distill", "OnePass", "Sequential", "distillation_loss", "finetune"),
    "selection": ("Budget",),
    "training": ("GradualMagnitude", "IrrelevanceDecay", "Lobster", "Masks", "NNRelief", "WeightDecay"),
}


def __getattr__(name: str) -> Any:
    # On first use: the command line answers --help without importing torch.
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f".{home}", __name__), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
