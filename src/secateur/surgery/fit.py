"""Whether a plan fits a model: everything that can be refused is refused here, before anything is changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import Tensor, nn

from secateur.ground.errors import SurgeryError, did_you_mean
from secateur.ground.tensors import tensor_names, tensors_of

from .modules import output_shape
from .names import first_names
from .plan import (
    Edit,
    Fingerprint,
    Plan,
    QuantiseLayer,
    RemoveBranch,
    Retrace,
    RewriteCode,
    SetAttribute,
    SliceTensor,
    ascending,
    plain,
)
from .quantised import input_groups, misfit

__all__ = ["OTHER_MODEL", "check", "fingerprint", "lookup"]

OTHER_MODEL = "the plan was made for another model"

T = TypeVar("T")


def fingerprint(model: nn.Module) -> Fingerprint:
    """Return the class of a model and a hash over the names and shapes of its parameters and buffers.

    Values, data types and devices do not matter.

    >>> fingerprint(nn.Linear(2, 3)) == fingerprint(nn.Linear(2, 3)) != fingerprint(nn.Linear(3, 2))
    True
    """
    state = model.state_dict()
    lines = sorted(f"{name} {tuple(t.shape)}" for name, t in state.items() if isinstance(t, Tensor))
    return Fingerprint(type(model).__qualname__, hashlib.sha256("\n".join(lines).encode()).hexdigest())


def check(model: nn.Module, plan: Plan) -> None:
    """Refuse a plan that does not fit a model, with the first entry that differs, or that contradicts itself.

    Raises:
        SurgeryError: it does not fit.
    """
    found = fingerprint(model)
    if found.model != plan.made_for.model:
        raise SurgeryError(f"{OTHER_MODEL}: for a {plan.made_for.model}, and this is a {found.model}")
    tensors = tensors_of(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    tied = {name: group for group in tensor_names(model) for name in group}
    for edit in plan.edits:
        match edit:
            case SliceTensor():
                _check_slice(edit, tensors, tied)
            case RewriteCode(path) | Retrace(path):
                lookup(modules, path, "module")
            case SetAttribute():
                _check_attribute(edit, lookup(modules, edit.module, "module"))
            case RemoveBranch():
                _check_branch(edit, modules, plan.tensors)
            case QuantiseLayer(path):
                why = misfit(lookup(modules, path, "module"))
                if why:
                    raise SurgeryError(f"the plan quantises {path or 'the model'}, but {why}")
    if found != plan.made_for:
        raise SurgeryError(
            f"{OTHER_MODEL}: both are a {found.model}, but the names or shapes of their tensors differ. "
            "Make the model with the same options as when the plan was made"
        )
    _check_contradictions(plan.edits, first_names(model))
    _check_values(plan, tensors)


def lookup(known: Mapping[str, T], name: str, what: str) -> T:
    """Return what a plan names.

    Raises:
        SurgeryError: there is no such thing.
    """
    if name not in known:
        raise SurgeryError(f"{OTHER_MODEL}: this one has no {what} {name!r}.{did_you_mean(name, known)}")
    return known[name]


def _check_slice(
    edit: SliceTensor, tensors: Mapping[str, Tensor], tied: Mapping[str, tuple[str, ...]]
) -> None:
    for name in edit.names:
        tensor = lookup(tensors, name, "parameter or buffer")
        if tensor.ndim <= edit.dim or tensor.shape[edit.dim] != edit.size:
            raise SurgeryError(
                f"{OTHER_MODEL}: it expects size {edit.size} in dimension {edit.dim} of {name}, "
                f"which has the shape {tuple(tensor.shape)}"
            )
        if set(tied[name]) != set(edit.names):
            raise SurgeryError(
                f"{OTHER_MODEL}: there {', '.join(edit.names)} are one tensor, here {', '.join(tied[name])}"
            )
    if not edit.index or not ascending((-1, *edit.index, edit.size)):
        raise SurgeryError(
            f"the plan keeps of {edit.names[0]} indices that are none of a dimension of {edit.size}"
        )


def _check_attribute(edit: SetAttribute, module: nn.Module) -> None:
    # Only the module's own attributes: never a property, a method or a class attribute.
    if edit.attribute not in vars(module):
        raise SurgeryError(
            f"{OTHER_MODEL}: {edit.module} ({type(module).__name__}) has no attribute {edit.attribute!r}."
            f"{did_you_mean(edit.attribute, vars(module))}"
        )
    found = vars(module)[edit.attribute]
    if plain(found) != edit.old:
        raise SurgeryError(
            f"{OTHER_MODEL}: it expects {edit.module}.{edit.attribute} to be {edit.old}, not {found!r}"
        )


def _check_branch(
    edit: RemoveBranch, modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]
) -> None:
    for path in edit.paths:
        if not path:
            raise SurgeryError("the plan removes the whole model as a branch of it")
        lookup(modules, path, "module")
    for path in (*edit.constants, *edit.removed):
        output_shape(modules[path], path)
    for name in (f"{path}.value" for path in edit.constants):
        if name not in tensors:
            raise SurgeryError(f"the plan removes a branch but has no tensor {name!r} for it")


def _check_contradictions(edits: Iterable[Edit], first: Mapping[str, str]) -> None:
    """Refuse a plan that changes something twice, or in a module that it removes: nobody could say what is meant."""
    gone = {path for e in edits if isinstance(e, RemoveBranch) for path in e.paths}
    changed: set[str] = set()
    for edit in edits:
        for what, path in _changed(edit, first):
            if what in changed:
                raise SurgeryError(f"the plan contradicts itself: it changes {what} twice")
            changed.add(what)
            if _in(path, gone - {path} if isinstance(edit, RemoveBranch) else gone):
                raise SurgeryError(f"the plan contradicts itself: it changes {path} and removes it")
        if isinstance(edit, Retrace) and any(_in(path, {edit.module}) for path in gone):
            raise SurgeryError(
                f"the plan contradicts itself: it traces {edit.module} and removes a part of it"
            )


def _changed(edit: Edit, first: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what an edit changes, in words, and the modules that hold it; `first` has one name of each module."""
    match edit:
        case SliceTensor(names, dim):
            return [(f"dimension {dim} of {name}", name.rpartition(".")[0]) for name in names]
        case SetAttribute(module, attribute):
            return [(f"{first[module]}.{attribute}", module)]
        case RewriteCode(module):
            return [(f"the code of {first[module] or 'the model'}", module)]
        case Retrace(module):  # under each of its names
            return [(f"the calls of {module or 'the model'}", module)]
        case RemoveBranch():
            return [(path, path) for path in edit.paths]
        case QuantiseLayer(module):
            return [(f"the levels of {first[module] or 'the model'}", module)]


def _in(path: str, modules: Iterable[str]) -> bool:
    return any(not m or path == m or path.startswith(f"{m}.") for m in modules)


def _check_values(plan: Plan, tensors: Mapping[str, Tensor]) -> None:
    """Refuse values and patterns that do not have the shapes which the edits leave."""
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    for edit in plan.edits:
        if isinstance(edit, SliceTensor):
            for name in edit.names:
                shapes[name][edit.dim] = len(edit.index)
        elif isinstance(edit, RemoveBranch):
            for path in edit.constants:
                shapes[f"{path}.value"] = list(plan.tensors[f"{path}.value"].shape)
        elif isinstance(edit, QuantiseLayer):
            outputs, inputs = shapes[f"{edit.module}.weight".lstrip(".")][:2]
            shapes[f"{edit.module}.weight_scales".lstrip(".")] = [outputs, input_groups(inputs, edit.group)]
    for name, value in plan.tensors.items():
        shape = lookup(shapes, name, "tensor")
        if shape != list(value.shape):
            raise SurgeryError(
                f"the plan gives {name} the shape {tuple(value.shape)}, "
                f"but after its edits the tensor has the shape {tuple(shape)}"
            )
    for name, pattern in plan.patterns.items():
        shape = lookup(shapes, name, "parameter")
        if tuple(shape) != pattern.partition.shape:
            raise SurgeryError(
                f"{OTHER_MODEL}: its pattern of {name} is for the shape {pattern.partition.shape}, not {tuple(shape)}"
            )
        if name in plan.tensors and not pattern.obeyed(plan.tensors[name]):
            raise SurgeryError(f"the plan's values of {name} do not obey its own pattern of blocks")
