"""Whether a written model still computes what the PyTorch model does, over several input sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.ground.errors import ExportError
from secateur.ground.modes import evaluating, without_fastpath

from .program import Portable

__all__ = ["TOLERANCE", "Export", "accepted", "check", "difference", "example_sizes"]

TOLERANCE = 1e-3
"""Largest difference that is let through, as a share of the largest output; float32 stays far below."""

Run = Callable[[list[Any]], Sequence[Tensor]]
"""Runs the written model on flat inputs, one batch, and returns its flat tensor outputs."""


@dataclass(frozen=True)
class Export:
    """A written model: where it is, how large, and how far its outputs are from the PyTorch model's."""

    path: Path
    format: str
    bytes: int  # with its file of external data, if there is one
    free: tuple[
        int, ...
    ]  # dimensions of the inputs that may have any size; () where the model's code fixes all
    checked: tuple[tuple[int, ...], ...]  # shapes of the first input in the comparison
    max_difference: float  # of all outputs, as a share of the largest one
    hint: str = ""  # what would make it faster

    def __str__(self) -> str:
        sizes = " and ".join("x".join(map(str, shape)) for shape in self.checked)
        free = f"dimensions {self.free} are free" if self.free else "every size is fixed"
        return (
            f"Wrote {self.path} ({self.bytes:,} bytes, {self.format}; {free}). On inputs of {sizes} its outputs "
            f"differ from PyTorch's by at most {self.max_difference:.1e} of the largest.{self.hint and ' '}{self.hint}"
        )


def example_sizes(flat: list[Any], free: tuple[int, ...]) -> list[list[Any]]:
    """Return flat inputs in the sizes to check: one sample and one more than the example; every other free
    dimension is cut to half.

    >>> [x.shape[0] for (x,) in example_sizes([torch.ones(2, 3)], free=(0,))]
    [1, 3]
    >>> [tuple(x.shape) for (x,) in example_sizes([torch.ones(2, 8)], free=(0, 1))]
    [(1, 8), (3, 4)]
    """
    first = next((x for x in flat if isinstance(x, Tensor) and x.ndim), None)
    if first is None or not free:
        return [flat]

    def sized(wanted: Mapping[int, int]) -> list[Any]:
        result = []
        for x in flat:
            for d, n in wanted.items():
                if isinstance(x, Tensor) and x.ndim > d and x.shape[d] == first.shape[d]:
                    # Modulo: samples begin again where the example has too few.
                    x = x.index_select(d, torch.arange(n, device=x.device) % x.shape[d])
            result.append(x)
        return result

    more = {d: max(1, first.shape[d] // 2) for d in free if 0 < d < first.ndim}
    batch = {0: 1} if 0 in free else {}
    larger = {0: len(first) + 1} if 0 in free else {}
    return [sized(batch), sized(larger | more)]


def accepted(model: nn.Module, program: Portable) -> list[list[Any]]:
    """Return flat inputs in the sizes of `example_sizes` that the model runs on, else the example as it is.

    Inputs may count different things, and name one another: nodes, and edges between them.
    """
    sizes = example_sizes(program.flat, program.free)
    return [flat for flat in sizes if _runs(model, program.spec, flat)] or [program.flat]


def _runs(model: nn.Module, spec: pytree.TreeSpec, flat: list[Any]) -> bool:
    try:
        _outputs(model, spec, flat)
    except Exception:  # the model's own code, on inputs that nobody asked it to take
        return False
    return True


def _outputs(model: nn.Module, spec: pytree.TreeSpec, flat: list[Any]) -> list[Tensor]:
    args, kwargs = pytree.tree_unflatten(flat, spec)
    with evaluating(model), without_fastpath(), torch.inference_mode():
        return [t for t in pytree.tree_leaves(model(*args, **kwargs)) if isinstance(t, Tensor)]


def check(
    model: nn.Module, program: Portable, run: Run, tolerance: float, what: str
) -> tuple[tuple[tuple[int, ...], ...], float]:
    """Return the shapes of the first input in all sizes, and the largest difference of what was written.

    Raises:
        ExportError: it is above the tolerance, or what was written does not run.
    """
    worst, shapes = 0.0, []
    for flat in accepted(model, program):
        expected = _outputs(model, program.spec, flat)
        shape = next((tuple(x.shape) for x in flat if isinstance(x, Tensor)), ())
        shapes.append(shape)
        try:
            found = run(flat)
        except Exception as error:  # runtimes have errors of their own
            raise ExportError(
                f"The {what} does not run on inputs of {shape}: {' '.join(str(error).split())[:300]}. Nothing was "
                "written. A size that the model's code fixes must not be among the free dimensions."
            ) from error
        if len(found) != len(expected):
            raise ExportError(f"The {what} has {len(found)} outputs, the model {len(expected)}.")
        worst = max([worst, *map(difference, expected, found)])
        if worst > tolerance:
            raise ExportError(
                f"On inputs of {shape} the {what} differs from the model by {worst:.1e} of the largest output, more "
                f"than the tolerance of {tolerance:.1e}. Nothing was written. Check that the model is deterministic "
                "in evaluation mode; for half precision give a larger tolerance."
            )
    return tuple(shapes), worst


def difference(expected: Tensor, found: Tensor) -> float:
    """Return the largest difference as a share of the largest finite value expected; inf for another shape.

    >>> difference(torch.tensor([1.0, -4.0]), torch.tensor([1.0, -3.0]))
    0.25
    >>> difference(torch.tensor([1.0, -torch.inf]), torch.tensor([1.0, -torch.inf]))
    0.0
    """
    if expected.shape != found.shape:
        return float("inf")
    a, b = expected.detach().cpu().double(), found.detach().cpu().double()
    same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(same, 0.0, (a - b).abs().nan_to_num(float("inf")))
    finite = a[a.isfinite()].abs()
    if not gap.numel() or float(gap.max()) == 0:
        return 0.0
    largest = float(finite.max()) if finite.numel() else 0.0
    return float(gap.max()) / largest if largest else float("inf")
