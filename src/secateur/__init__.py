"""secateur makes trained PyTorch networks really smaller and really faster, and proves it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Result
    from .artefact import Packed, PackedFile, Quantise, load, pack, unpack
    from .blocks import Block
    from .front import prune
    from .graph import trace
    from .ground.errors import SecateurError
    from .methods import (
        ADMM,
        SNP,
        AcrossLayers,
        ActivationMagnitude,
        BatchNormScale,
        EachLayer,
        Fluctuation,
        GradualMagnitude,
        IrrelevanceDecay,
        Lobster,
        Magnitude,
        MicroStructured,
        NNRelief,
        Random,
        Shares,
        Taylor,
        WeightDecay,
    )
    from .methods.dead_units import remove_dead_units
    from .recovery import Compensate, Distill, OnePass, Sequential
    from .selection import Budget
    from .sparse import SparseResult
    from .structuring import micro_structure
    from .surgery import fold_weights, reparameterize
    from .training import (
        Bound,
        Checkpoints,
        Constant,
        Cosine,
        Crops,
        Masks,
        MultiStep,
        OneCycle,
        Teacher,
        Training,
        Validation,
        distillation_loss,
        finetune,
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
    "ground.errors": ("SecateurError",),
    "front": ("prune",),
    "graph": ("trace",),
    "methods": (
        "ADMM",
        "GradualMagnitude",
        "IrrelevanceDecay",
        "Lobster",
        "NNRelief",
        "WeightDecay",
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
    "methods.dead_units": ("remove_dead_units",),
    "recovery": ("Compensate", "Distill", "OnePass", "Sequential"),
    "selection": ("Budget",),
    "sparse": ("SparseResult",),
    "blocks": ("Block",),
    "structuring": ("micro_structure",),
    "surgery": ("fold_weights", "reparameterize"),
    "training": (
        "distillation_loss",
        "finetune",
        "Bound",
        "Checkpoints",
        "Constant",
        "Cosine",
        "Crops",
        "Masks",
        "MultiStep",
        "OneCycle",
        "Teacher",
        "Training",
        "Validation",
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
