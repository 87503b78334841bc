"""The check that a smaller model computes what was promised: masked = shrunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Interpreter
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from secateur.graph.export import export_program
from secateur.graph.graph import Graph
from secateur.graph.groups import Kept
from secateur.graph.program import Program
from secateur.ground.copies import copied
from secateur.ground.devices import device_of, moments_device
from secateur.ground.errors import SurgeryError
from secateur.ground.modes import evaluating, without_fastpath
from secateur.ground.tensors import floating, tensors_of

from .compare import Match, compare, place

__all__ = ["Verification", "outputs", "run", "tolerance", "verify"]


@dataclass(frozen=True)
class Verification:
    """How far the smaller model is from the masked one.

    ``relative`` is the largest difference of any output divided by the largest output of the masked model.
    """

    max_difference: float
    scale: float
    relative: float
    nodes_compared: int


def tolerance(dtype: torch.dtype) -> float:
    """Return the relative difference that the order of additions may make in a deep network.

    >>> tolerance(torch.float32)
    0.0001
    """
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 5e-2)


def verify(
    masked: nn.Module,
    smaller: nn.Module,
    graph: Graph,
    kept: Kept,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
) -> Verification:
    """Check law 1: the smaller model, not repaired yet, gives the outputs of the masked one.

    First in form: exported again, every call has the shape and the constants that the graph predicted. Then in
    numbers, on the inputs given, both models in eval mode. Deep networks may amplify rounding beyond what is allowed;
    where the models differ, they are compared in float64 as well, which leaves nothing of it.

    Raises:
        SurgeryError: they differ, and the message names the first call that does; or the smaller model does not run.
        TraceError: the smaller model cannot be exported.
    """
    match = compare(smaller, graph, kept)
    named = dict(kwargs or {})
    run(smaller, args, named)  # as it will be: an export does not show calls that are made for speed alone
    largest, scale, allowed = _compared(masked, smaller, args, named)
    relative = largest / scale if scale else largest
    # Not at most, so that what is not a number fails.
    if not relative <= allowed and not _is_rounding(relative, masked, smaller, args, named):
        first = _first_difference(masked, smaller, graph, kept, match, allowed)
        raise SurgeryError(
            f"the smaller model differs from the masked one by {relative:.1e} of its largest output "
            f"(allowed {allowed:.0e}){first}: exclude the group from pruning"
        )
    return Verification(largest, scale, relative, len(match.pairs))


def _compared(
    masked: nn.Module, smaller: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[float, float, float]:
    """Return the largest difference of the outputs, the largest output, and what their types allow.

    Raises:
        SurgeryError: numbers or shapes of outputs differ, or the masked model's are not finite.
    """
    with without_fastpath():
        expected, found = outputs(masked, args, kwargs), outputs(smaller, args, kwargs)
    if len(expected) != len(found):
        raise SurgeryError(f"the smaller model has {len(found)} outputs, the masked one {len(expected)}")
    largest = scale = allowed = 0.0
    for old, new in zip(expected, found, strict=True):
        if old.shape != new.shape:
            raise SurgeryError(f"an output has the shape {tuple(new.shape)}, not {tuple(old.shape)}")
        if not bool(old.isfinite().all()):
            raise SurgeryError(
                "the masked model makes outputs that are not finite: check the inputs and the weights"
            )
        allowed = max(allowed, tolerance(old.dtype))
        if old.numel():
            largest = max(largest, _largest(old - new))
            scale = max(scale, _largest(old))
    return largest, scale, allowed


def _is_rounding(
    relative: float, masked: nn.Module, smaller: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    """Say whether in float64 less than a tenth of the difference is left: other errors would stay as they are."""

    def double(leaf: Any) -> Any:
        leaf = leaf.to(where) if isinstance(leaf, Tensor) else leaf
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    where = moments_device(device_of(masked) or torch.device("cpu"))
    try:
        old, new = (copied(model).to(where).double() for model in (masked, smaller))
        largest, scale, _ = _compared(old, new, *pytree.tree_map(double, (args, kwargs)))
    except (RuntimeError, SurgeryError):  # code that is for one type alone
        return False
    return largest < relative / 10 * scale


def _largest(value: Tensor) -> float:
    return float(value.abs().max())


def run(smaller: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the outputs of a smaller model.

    Raises:
        SurgeryError: it does not run; the message says why.
    """
    try:
        return outputs(smaller, args, kwargs)
    except SurgeryError:
        raise
    except Exception as error:  # the model's own code runs here
        raise SurgeryError(
            f"the smaller model does not run: {type(error).__name__}: {str(error).strip()[:300]}"
        ) from error


def outputs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the floating outputs of a model in evaluation mode."""
    with evaluating(model), torch.inference_mode():
        return floating(model(*args, **kwargs))


def _first_difference(
    masked: nn.Module, smaller: nn.Module, graph: Graph, kept: Kept, match: Match, allowed: float
) -> str:
    """Say at which call the two models part, by running both call by call on random inputs."""
    example = graph.program.example
    dense = export_program(masked, *example, batch_dims=graph.program.batch_dims)
    generator = torch.Generator().manual_seed(0)

    def noise(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return (
                torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
                .to(leaf.dtype)
                .to(leaf.device)
            )
        return leaf

    inputs = pytree.tree_map(noise, example)
    old_values, new_values = _values(dense, masked, inputs), _values(match.program, smaller, inputs)
    for old, new in match.pairs:
        a, b = old_values.get(old.name), new_values.get(new.name)
        if a is None or b is None or old.op == "output":
            continue
        for d in range(a.ndim):
            stays = torch.from_numpy(graph.surviving_along(old.name, d, kept))
            a = a.index_select(d, stays.to(a.device))
        if not _largest(a - b) <= allowed * max(_largest(a), 1e-30):
            return f", first at {place(old)}"
    return ""


def _values(program: Program, model: nn.Module, inputs: Any) -> dict[str, Tensor]:
    """Return the floating output of every call, as it was when the call was made."""
    found: dict[str, Tensor] = {}

    class Recorder(Interpreter):
        def run_node(self, n: FxNode) -> Any:
            result = super().run_node(n)
            if isinstance(result, Tensor) and result.is_floating_point() and result.numel():
                found[n.name] = result.clone()
            return result

    with torch.inference_mode():
        Recorder(program.exported.graph_module).run(*program.takes(tensors_of(model), inputs))
    return found
