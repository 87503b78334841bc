"""Quantisation after training: int8 layers, and weights of four bits in groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from secateur.case import Case
from secateur.graph import Layer
from secateur.ground.copies import copied
from secateur.ground.errors import SurgeryError, UsageError
from secateur.ground.modes import evaluating
from secateur.ground.patterns import check_patterns
from secateur.ground.processes import in_step, summed
from secateur.ground.tensors import floating, tensors_of
from secateur.quantisation import Options, Quantisable, Quantised, quantisable, quantised, reading
from secateur.report import LayerLevels, Quantisation
from secateur.runtime.int8 import fastest_bits
from secateur.selection import Budget
from secateur.statistics import Forward
from secateur.statistics.forward import Watch
from secateur.surgery import InputLevels, Plan, QuantiseLayer
from secateur.surgery.quantised import install
from secateur.surgery.values import revalued, whole

from .protocol import Draft, Evidence, Needs

__all__ = ["Int4", "Int8"]


@dataclass(frozen=True)
class Int8:
    """Weights as int8, a scale an output; what layers read as bytes, a scale and a zero for each tensor.

    Ranges are those with the least error in what reads them, on samples held out. Weights are rounded with feedback
    (`secateur.quantisation.rounded`), front to back, and biases take up the mean error. With ``bits=7`` what layers
    read has 128 levels: processors with AVX2 and no VNNI multiply those a third faster; `here` says what this one
    wants. Layers that `skip` names (globs of modules), and those that cannot be quantised, stay float.

    Values beyond a range are at its end, infinities as well; NaN is read as 0.

    Raises:
        UsageError: bits other than 7 or 8, or no position.

    >>> Int8().label, Int8(bits=7).label
    ('int8', 'int8, 7-bit inputs')
    """

    bits: Literal[7, 8] = 8
    skip: tuple[str, ...] = ()
    feedback: bool = True
    positions: int = 64

    def __post_init__(self) -> None:
        if self.bits not in (7, 8):
            raise UsageError(
                f"bits={self.bits!r} of what layers read must be 7 or 8 (weights have 8 in any case)."
            )
        if self.positions < 1:
            raise UsageError(f"positions={self.positions} must be at least 1.")

    @staticmethod
    def here() -> Int8:
        """Return the method with the bits that this processor's kernels are fastest with."""
        return Int8(bits=fastest_bits())

    @property
    def label(self) -> str:
        """What reports call it."""
        return "int8" if self.bits == 8 else f"int8, {self.bits}-bit inputs"

    @property
    def needs(self) -> Needs:
        """What it has to be given."""
        return Needs(calibration=True, budgets=())

    def draft(self, case: Case, budget: Budget | None) -> Draft:
        """Return a copy of the case's model with quantised layers."""
        check_patterns(case.model, self.skip, "skip")
        options = Options(8, 2**self.bits - 1, feedback=self.feedback, positions=self.positions)
        found = quantisable(case.model, case.graph, case.inputs, skip=self.skip, patterns=case.patterns)
        return _draft(case, options, found)


@dataclass(frozen=True)
class Int4:
    """Weights of linear layers in 4 bits, `group` neighbouring inputs sharing a scale; what is read stays as it is.

    For storage, and for decoders, which wait for their weights: nothing is computed in integers. Rounded as by `Int8`.

    Raises:
        UsageError: a group of fewer than 2 inputs, or no position.

    >>> Int4(group=64).label
    '4-bit weights in groups of 64'
    """

    group: int = 64
    skip: tuple[str, ...] = ()
    feedback: bool = True
    positions: int = 64

    def __post_init__(self) -> None:
        if self.group < 2 or self.positions < 1:
            raise UsageError(f"group={self.group} must be at least 2, positions={self.positions} at least 1.")

    @property
    def label(self) -> str:
        """What reports call it."""
        return f"4-bit weights in groups of {self.group}"

    @property
    def needs(self) -> Needs:
        """What it has to be given."""
        return Needs(calibration=True, budgets=())

    def draft(self, case: Case, budget: Budget | None) -> Draft:
        """Return a copy of the case's model with quantised layers."""
        check_patterns(case.model, self.skip, "skip")
        options = Options(4, None, self.group, self.feedback, self.positions)
        found = quantisable(
            case.model, case.graph, case.inputs, skip=self.skip, patterns=case.patterns, kinds=(nn.Linear,),
            dtypes=(torch.float32, torch.bfloat16, torch.float16),
        )  # fmt: skip
        return _draft(case, options, found)


def _draft(case: Case, options: Options, found: Quantisable) -> Draft:
    if not found.layers:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(found.skipped.items())[:4])
        raise UsageError(f"No layer can be quantised. {reasons or 'The model has none.'}")
    with case.phase("quantisation"):
        done = quantised(case.graph, found.layers, case.tensors, case.batches, options, case.seed)
    edits = tuple(_edit(layer, done, options) for layer in found.layers)
    model = _installed(case.model, edits, found.layers, done)
    before = whole(case.dense) if case.start is None else case.start
    plan: Plan = revalued(replace(before, edits=(*before.edits, *edits)), case.dense, model, case.patterns)
    evidence = Evidence(
        max_masked_difference=_checked(case, model, found.layers, done),
        quantisation=_summary(case, options, found, done),
    )
    return Draft(model, plan, "recovered", evidence, budget="none: all that can be")


def _edit(layer: Layer, done: Quantised, options: Options) -> QuantiseLayer:
    levels = done.layers[layer.node].levels
    read = None if levels is None else InputLevels(levels.scale, levels.zero, levels.most)
    return QuantiseLayer(layer.module, options.bits, read, options.group)


def _installed(
    model: nn.Module, edits: tuple[QuantiseLayer, ...], layers: Sequence[Layer], done: Quantised
) -> nn.Module:
    """Return a copy of a model with its layers quantised and the tensors of the network that was."""
    made = copied(model)
    values = dict(done.tensors)
    for edit, layer in zip(edits, layers, strict=True):
        install(made.get_submodule(edit.module), edit)
        values[f"{edit.module}.weight_scales".lstrip(".")] = done.layers[layer.node].scales
    known = tensors_of(made)
    with torch.no_grad():
        for name, value in values.items():
            if name in known:
                known[name].copy_(value)
    return made


def _checked(case: Case, model: nn.Module, layers: Sequence[Layer], done: Quantised) -> float:
    """Return how far the module is from the network that was quantised, on the example: law 1 for what is rounded.

    Raises:
        SurgeryError: the module does not compute what was planned.
    """
    reads = _reads(layers, done)
    with evaluating(model), torch.no_grad():
        found = floating([case.inputs(model)])
    flat = list(case.inputs.detached().leaves)
    wanted = floating(Forward(case.graph.program, done.tensors).run(flat, reads, {}, whole=True))
    worst = max((float((a - b).abs().max()) for a, b in zip(found, wanted) if a.numel()), default=0.0)
    largest = max((float(b.abs().max()) for b in wanted if b.numel()), default=0.0)
    # Sums of float32 in another order may lie on the other side of a half, and so move a level.
    if not worst <= 0.1 * largest:
        raise SurgeryError(
            f"The quantised {type(model).__name__} differs from what was planned by {worst:.1e}, its largest output "
            f"being {largest:.1e}: its layers are not what its forward calls. Please report it, with the model."
        )
    return worst


def _reads(layers: Sequence[Layer], done: Quantised) -> dict[str, Watch]:
    found = {layer.node: (layer, done.layers[layer.node].levels) for layer in layers}
    return {node: reading(layer, levels) for node, (layer, levels) in found.items() if levels is not None}


def _summary(case: Case, options: Options, found: Quantisable, done: Quantised) -> Quantisation:
    weights = {layer.node: done.tensors[layer.weight].numel() for layer in found.layers}
    scales = sum(4 * layer.scales.numel() for layer in done.layers.values())
    parts = {
        layer.module: LayerLevels(
            options.bits,
            options.group,
            None if levels is None else levels.scale,
            None if levels is None else levels.zero,
            None if levels is None else levels.most,
            float(f"{done.layers[layer.node].error:.4g}"),
        )
        for layer in found.layers
        for levels in [done.layers[layer.node].levels]
    }
    whole_bytes = sum(weights.values()) * options.bits // 8 + scales
    return Quantisation(_error(case, found.layers, done), whole_bytes, parts, found.skipped)


def _error(case: Case, layers: Sequence[Layer], done: Quantised) -> float:
    """Return the squared error of the outputs on what is held out (on all, if that is nothing), as a share."""
    program, reads = case.graph.program, _reads(layers, done)
    before, after = Forward(program, case.tensors), Forward(program, done.tensors)
    sums = torch.zeros(2, 2, dtype=torch.float64)  # held out or not; error, power
    with in_step():
        for flat, held in case.batches.held_out():
            for side in (False, True):
                if not bool((held == side).any()):
                    continue
                inputs = case.batches.take(flat, held == side)
                wanted = floating(before.run(inputs, {}, {}, whole=True))
                found = floating(after.run(inputs, reads, {}, whole=True))
                for a, b in zip(wanted, found, strict=True):
                    sums[int(side)] += torch.stack([((a - b).double() ** 2).sum(), (a.double() ** 2).sum()])
    total = summed(sums)
    error, power = map(float, total[1] if total[1, 1] else total[0])
    return error / max(power, torch.finfo(torch.float64).tiny)
