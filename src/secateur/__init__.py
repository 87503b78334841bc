"""secateur makes trained PyTorch networks really smaller and really faster, and proves it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Result
    from .artefact import Packed, PackedFile, Quantise, load, pack, unpack
    from .errors import SecateurError
    from .front import prune
    from .graph import trace
    from .methods import (
        SNP,
        AcrossLayers,
        ActivationMagnitude,
        BatchNormScale,
        EachLayer,
        Fluctuation,
        Magnitude,
        MicroStructured,
        Random,
        Shares,
        Taylor,
    )
    from .recovery import Compensate, Distill, OnePass, Sequential, distillation_loss, finetune
    from .removal import remove_dead_units
    from .selection import Budget
    from .sparse import SparseResult
    from .structure import Block
    from .structuring import micro_structure
    from .surgery import fold_weights, reparameterize
    from .training import (
        ADMM,
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
        hold_out,
    )

__all__ = [
    "ADMM",
    "SNP",
    "AcrossLayers",
    "ActivationMagnitude",
    "BatchNormScale",
    "Block",
    "Bound",
    "Budget",
    "Checkpoints",
    "Compensate",
    "Constant",
    "Cosine",
    "Crops",
    "Distill",
    "EachLayer",
    "Fluctuation",
    "GradualMagnitude",
    "IrrelevanceDecay",
    "Lobster",
    "Magnitude",
    "Masks",
    "MicroStructured",
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
    "Shares",
    "SparseResult",
    "Taylor",
    "Teacher",
    "Training",
    "Validation",
    "WeightDecay",
    "distillation_loss",
    "finetune",
    "fold_weights",
    "hold_out",
    "load",
    "micro_structure",
    "pack",
    "prune",
    "remove_dead_units",
    "reparameterize",
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
        "AcrossLayers",
        "ActivationMagnitude",
        "BatchNormScale",
        "EachLayer",
        "Fluctuation",
        "Magnitude",
        "MicroStructured",
        "Random",
        "Shares",
        "Taylor",
    ),
    "removal": ("remove_dead_units",),
    "recovery": ("Compensate", "Distill", "OnePass", "Sequential", "distillation_loss", "finetune"),
    "selection": ("Budget",),
    "sparse": ("SparseResult",),
    "structure": ("Block",),
    "structuring": ("micro_structure",),
    "surgery": ("fold_weights", "reparameterize"),
    "training": (
        "ADMM",
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
        "hold_out",
    ),
}


_ROOMS = ("export", "runtime")  # reached as secateur.export.to_onnx, without an import of their own


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
