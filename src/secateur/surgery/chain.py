"""Chains of plans: from a network over others, each trained meanwhile, to the last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod

from torch import Tensor

from secateur.ground.errors import SurgeryError, did_you_mean

from .plan import MAX_STEPS, Plan, RemoveBranch, SliceTensor

__all__ = ["after", "constants_of", "with_constants"]

LARGEST = 2**24  # entries of a constant: one for each channel


def after(steps: Iterable[Plan], plan: Plan) -> Plan:
    """Return a plan that comes after others. Of those it keeps what shapes need: the last plan sets all values.

    Raises:
        SurgeryError: there are more steps than an artefact may hold.

    >>> from secateur.surgery.values import whole
    >>> from torch import nn
    >>> after([whole(nn.ReLU())], whole(nn.ReLU())).first  # a step that changes no shape is none
    ()
    """
    bare = tuple(
        replace(
            step, tensors={name: step.tensors[name] for name in constants_of(step)}, patterns={}, first=()
        )
        for step in (*steps, *plan.first)
        if step.edits
    )
    if len(bare) > MAX_STEPS:
        raise SurgeryError(
            f"the plan would come after {len(bare)} others, and artefacts hold at most {MAX_STEPS}: "
            "prune in fewer steps"
        )
    return replace(plan, first=bare)


def constants_of(plan: Plan) -> tuple[str, ...]:
    """Return the names of the constants that removed branches leave, which applying a plan needs the values of."""
    return tuple(f"{path}.value" for e in plan.edits if isinstance(e, RemoveBranch) for path in e.constants)


def with_constants(plan: Plan, tensors: Mapping[str, Tensor]) -> Plan:
    """Return a plan with the constants of removed branches, from the tensors that its model has at the end.

    Where a later step cut a constant, the one before it is blank, and of the size that it had: its values are set
    afterwards.

    Raises:
        SurgeryError: there is no such tensor.
    """
    left = dict(tensors)
    steps: list[Plan] = []
    for step in reversed(plan.steps):
        for name in (names := constants_of(step)):
            if name not in left:
                raise SurgeryError(f"there is no tensor {name!r}.{did_you_mean(name, left)}")
        steps.append(replace(step, tensors=step.tensors | {name: left[name] for name in names}))  # type: ignore[operator]
        for edit in step.edits:
            if isinstance(edit, SliceTensor):
                for name in edit.names:
                    if name.endswith(".value") and name in left:
                        left[name] = _uncut(left[name], edit)
    last, *first = steps
    return replace(last, first=tuple(reversed(first)))


def _uncut(value: Tensor, edit: SliceTensor) -> Tensor:
    shape = list(value.shape)
    if edit.dim >= len(shape):
        raise SurgeryError(f"{edit.names[0]} has no dimension {edit.dim} to be cut")
    shape[edit.dim] = edit.size
    if prod(shape) > LARGEST:
        raise SurgeryError(f"the constant {edit.names[0]} would have {prod(shape):,} entries")
    return value.new_zeros(shape)
