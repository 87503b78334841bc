"""Exported programs (.pt2): what torch.export.load, AOTInductor and ExecuTorch read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.ground.errors import ExportError
from secateur.ground.files import replacing_files
from secateur.ground.inputs import Example
from secateur.ground.levels import levelled
from secateur.ground.models import ModelLike, module_of

from .check import TOLERANCE, Export, check
from .program import portable
from .quantised import quantised_layers

__all__ = ["to_exported_program"]


def to_exported_program(
    model: ModelLike,
    example_inputs: Example,
    file: str | PathLike[str],
    *,
    free: Sequence[int] = (0,),
    tolerance: float = TOLERANCE,
) -> Export:
    """Write a model in evaluation mode as an exported program (.pt2), read it back and compare.

    Arguments and errors are those of `to_onnx`. ``torch.export.load(file).module()`` runs it without secateur and
    without the model's code. **That function unpickles**: load only files that you trust. The file holds neither the
    example's data nor paths of this machine.

    Raises:
        TraceError: torch.export refuses the model.
        ExportError: as `to_onnx`.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    >>> x, file = torch.randn(5, 8), getfixture("tmp_path") / "net.pt2"
    >>> to_exported_program(net, x, file).max_difference
    0.0
    >>> torch.equal(torch.export.load(file).module()(x), net(x))
    True
    """
    model = module_of(model)
    program = portable(model, example_inputs, tuple(free))
    if quantised_layers(model):  # the file has to run where secateur is not
        plainly = program.exported.run_decompositions({torch.ops.secateur.in_levels.default: levelled})
        program = replace(program, exported=plainly)
    path = Path(file)
    with replacing_files(path, ExportError) as fresh:
        # torch insists on its own suffix.
        written = fresh.with_suffix(".pt2")
        try:
            torch.export.save(program.exported, written)
            loaded = torch.export.load(written).module()
        except Exception as error:  # the serialiser has many errors of its own
            raise ExportError(
                f"{type(model).__name__} cannot be saved as an exported program: {str(error)[:300]}"
            ) from error
        written.rename(fresh)

        def infer(flat: list[Any]) -> list[Tensor]:
            args, kwargs = pytree.tree_unflatten(flat, program.spec)
            with torch.inference_mode():
                return [t for t in pytree.tree_leaves(loaded(*args, **kwargs)) if isinstance(t, Tensor)]

        shapes, worst = check(model, program, infer, tolerance, "exported program")
        size = fresh.stat().st_size
    return Export(path, "exported", size, program.free, shapes, worst)
