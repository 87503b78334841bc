"""secateur makes trained PyTorch networks really smaller and really faster, and proves it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Result
    from .artefact import Packed, PackedFile, Quantise, load, pack, unpack
    from .errors import SecateurError
    from .front import prune
    from .graph import trace
    from .methods import SNP, ActivationMagnitude, BatchNormScale, Fluctuation, Magnitude, Random, Taylor
    from .recovery import Distill, OnePass, Sequential, distillation_loss, finetune
    from .removal import remove_dead_units
    from .selection import Budget
    from .sparse import SparseResult
    from .training import (
        Bound,
        Checkpoints,
        Constant,
        Cosine,
        Crops,
        GradualMagnitude,
        IrrelevanceDecay,
        Lobster,
        Masks,
        MultiStep,
        NNRelief,
        OneCycle,
        Teacher,
        Training,
        Validation,
        WeightDecay,
    )

__all__ = [
    "SNP",
    "ActivationMagnitude",
    "BatchNormScale",
    "Bound",
    "Budget",
    "Checkpoints",
    "Constant",
    "Cosine",
    "Crops",
    "Distill",
    "Fluctuation",
    "GradualMagnitude",
    "IrrelevanceDecay",
    "Lobster",
    "Magnitude",
    "Masks",
    "MultiStep",
    "NNRelief",
    "OneCycle",
    "OnePass",
    "Packed",
    "PackedFile",
    "Quantise",
    "Random",
    "Result",
    "SecateurError",
    "Sequential",
    "SparseResult",
    "Taylor",
    "Teacher",
    "Training",
    "Validation",
    "WeightDecay",
    "distillation_loss",
    "finetune",
    "load",
    "pack",
    "prune",
    "remove_dead_units",
    "trace",
    "unpack",
]

_HOMES = {
    "api": ("Result",),
    "artefact": ("Packed", "PackedFile", "Quantise", "load", "pack", "unpack"),
    "errors": ("SecateurError",),
    "front": ("prune",),
    "graph": ("trace",),
    "methods": (
        "SNP",
        "ActivationMagnitude",
        "BatchNormScale",
        "Fluctuation",
        "Magnitude",
        "Random",
        "Taylor",
    ),
    "removal": ("remove_dead_units",),
    "recovery": ("Distill", "OnePass", "Sequential", "distillation_loss", "finetune"),
    "selection": ("Budget",),
    "sparse": ("SparseResult",),
    "training": (
        "Bound",
        "Checkpoints",
        "Constant",
        "Cosine",
        "Crops",
        "GradualMagnitude",
        "IrrelevanceDecay",
        "Lobster",
        "Masks",
        "MultiStep",
        "NNRelief",
        "OneCycle",
        "Teacher",
        "Training",
        "Validation",
        "WeightDecay",
    ),
}


_ROOMS = ("export",)  # reached as secateur.export.to_onnx, without an import of their own


def __getattr__(name: str) -> Any:
    # On first use: the command line answers --help without importing torch.
    if name in _ROOMS:
        return import_module(f".{name}", __name__)
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f".{home}", __name__), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
