"""What a loss says of units: its gradient at a gate on each, squared sample by sample, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_unflatten

from secateur.graph import Graph, Group, Layer
from secateur.graph.batch import samples_inside
from secateur.ground.errors import CalibrationError
from secateur.ground.processes import in_step, summed
from secateur.ground.progress import track
from secateur.ground.tensors import floating

from .batches import Calibration
from .forward import Forward, Watch, state_tensors

__all__ = ["Loss", "gate_gradients", "random_projection"]

Loss = Callable[[Any, Any], Tensor]
"""Called with a model's outputs and the labels of the batch; returns the mean over the batch, as torch's losses do."""


def random_projection(outputs: Any, labels: Any) -> Tensor:
    """Add up all outputs with random signs, which needs no labels and suits any model.

    With ``v`` of independent signs, ``E (v^T dy/dz)^2 = |dy/dz|^2``: the square of this gradient estimates how far
    the outputs themselves move, to first order. It does not know which outputs matter.
    """
    generator = torch.Generator().manual_seed(0)
    found = [y for y in floating(outputs) if y.ndim]
    if not found:
        raise CalibrationError("The model has no floating outputs: give Taylor a loss of outputs and labels.")
    signs = [2 * torch.randint(0, 2, y.shape, generator=generator).to(y) - 1 for y in found]
    return torch.stack([(y * s).sum() / len(y) for y, s in zip(found, signs, strict=True)]).sum()


def gate_gradients(
    graph: Graph, groups: Iterable[Group], calibration: Iterable[Any], loss: Loss
) -> dict[str, Tensor]:
    """Return by group, float64 (units,), the mean over samples of the squared derivative of `loss` at each gate.

    A gate multiplies what all consumers of the group read of a unit, and stands at one: taking the unit out moves it
    to zero. Its derivative is ``sum a * dL/da`` over positions, channels and consumers (arXiv 1906.10771, eq. 8),
    here squared for each sample: over a batch of a trained network the gradients cancel. One pass, forward and
    backward; activations live for one batch.

    Raises:
        CalibrationError: the data are empty, do not fit the example or have no labels that the loss could use, or the
            gradients are not finite.
    """
    groups = tuple(groups)
    sizes = [group.size for group in groups]
    reads = _columns(graph, groups)
    inside = {node: samples_inside(graph.program, layer.value) for node, (layer, _) in reads.items()}
    forward = Forward(graph.program, state_tensors(graph.program), gradients=True)
    structure = graph.program.exported.call_spec.out_spec
    total = torch.zeros(sum(sizes) + 1, dtype=torch.float64)
    seen = torch.zeros((), dtype=torch.int64)
    with in_step():
        batches = Calibration.of(calibration, graph.program)
        for flat, labels in track(batches.labelled(), "gradients"):
            n = (
                batches.samples(flat) if batches.batch_first else 1
            )  # else no row of an activation is a sample
            gate = torch.ones(n, len(total), dtype=torch.float64, requires_grad=True)
            watched = {
                node: _gated(layer, gate[:, columns], inside[node])
                for node, (layer, columns) in reads.items()
            }
            with torch.enable_grad():
                outputs = forward.run(flat, watched, {}, whole=True)
                value = _value(loss, tree_unflatten(outputs or [], structure), labels)  # pyright: ignore[reportArgumentType]
            total += ((n * torch.autograd.grad(value, gate)[0]) ** 2).sum(0)
            seen += n
    total, seen = summed(total), summed(seen).clamp_min(1)
    if not total.isfinite().all():
        raise CalibrationError(
            "The gradients of the loss are not finite on the calibration data: check the inputs, labels and loss."
        )
    found = (total / seen)[:-1].split(sizes)
    return {group.id: scores for group, scores in zip(groups, found, strict=True)}


def _value(loss: Loss, outputs: Any, labels: Any) -> Tensor:
    name = getattr(loss, "__name__", type(loss).__name__)
    try:
        value = loss(outputs, labels)
    except Exception as error:  # whatever a caller's function raises
        if labels is not None:
            raise
        raise CalibrationError(
            f"The loss {name} failed ({error}), and the calibration batches hold no labels: give batches of "
            "(inputs, labels), or a criterion that needs none."
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise CalibrationError(f"The loss {name} must return one number that depends on the outputs.")
    return value


def _columns(graph: Graph, groups: Sequence[Group]) -> dict[str, tuple[Layer, Tensor]]:
    """Return, by node, a consumer and the column of the gate for each channel that it reads (the last: no unit)."""
    layers = {layer.node: layer for layer in graph.layers}
    last = sum(group.size for group in groups)
    columns: dict[str, tuple[Layer, Tensor]] = {}
    first = 0
    for group in groups:
        for site in group.consumers:
            layer = layers[site.node]
            owner = torch.tensor(group.owner(site.parameter, site.dim))
            # The weight of a grouped convolution has one group's channels; the unit is that channel of every group.
            owner = owner.repeat(layer.in_channels // len(owner))
            before = columns.get(site.node, (layer, torch.full_like(owner, last)))[1]
            columns[site.node] = layer, torch.where(owner >= 0, first + owner, before)
        first += group.size
    return columns


def _gated(layer: Layer, gate: Tensor, inside: bool) -> Watch:
    """Let a layer read each channel times its gate (samples, channels); `inside`: see `samples_inside`."""

    def read(args: tuple[Any, ...], result: None) -> tuple[Any, ...]:
        at = layer.position
        x, n = args[at], len(gate)
        # Pieces of a sample may stand as samples of their own; what has no samples (a table) has one gate for all.
        if len(x) % n:
            rows = gate.mean(0, keepdim=True)
        else:
            rows = gate.repeat(len(x) // n, 1) if inside else gate.repeat_interleave(len(x) // n, 0)
        shape = [len(rows)] + [1] * (x.ndim - 1)
        shape[layer.channel_dim] = gate.shape[1]
        return (*args[:at], x * rows.to(x.dtype).to(x.device).view(shape), *args[at + 1 :])

    return read
