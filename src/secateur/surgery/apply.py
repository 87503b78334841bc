"""Apply a plan to a model: short, because all thinking is in the plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from secateur.graph.program import Program
from secateur.ground.copies import copied
from secateur.ground.errors import SurgeryError, TraceError, did_you_mean
from secateur.ground.tensors import tensor_names, tensors_of

from .example import rebuild
from .fingerprint import fingerprint
from .fused import unfuse
from .modules import Constant, Removed, output_shape
from .plan import Plan, RemoveBranch, Retrace, RewriteCode, SetAttribute, SliceTensor, plain
from .region import exports, find_region
from .resized import class_for
from .retrace import retraced
from .traced import Traced

__all__ = ["apply", "apply_in_place"]

OTHER_MODEL = "the plan was made for another model"

T = TypeVar("T")


def apply(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a smaller copy of a model; the model itself is left as it is.

    The model may be the one that the plan was made from or a fresh one of the same class. Parameters stay
    parameters with the same names, data type, device, memory layout and ``requires_grad``; tied names stay
    tied; hooks and the training flag stay.

    Raises:
        SurgeryError: the plan does not fit the model; the message names the tensor and its two shapes.
    """
    _check(model, plan)
    # What is sliced is replaced, never written to: until then it may be the model's own.
    tensors = tensors_of(model)
    sliced = [
        tensors[name] for e in plan.edits if isinstance(e, SliceTensor) for name in e.names if name in tensors
    ]
    return apply_in_place(copied(model, {id(t): t for t in sliced}), plan)


def apply_in_place(model: nn.Module, plan: Plan) -> nn.Module:
    """Do what `apply` does to the model itself, and return it.

    Raises:
        SurgeryError: as `apply`; nothing was changed if the plan was made for another model.
    """
    _check(model, plan)
    forwards = _forwards(model, plan)  # of the dense model
    classes = {e.module: class_for(model.get_submodule(e.module), e) for e in plan.edits if isinstance(e, RewriteCode)}
    for edit in plan.edits:
        match edit:
            case SliceTensor(names, dim, index):
                owner, leaf = _owner(model, names[0])
                old = getattr(owner, leaf)
                kept = old.detach().index_select(dim, torch.tensor(index, device=old.device))
                _put(model, names, _in_layout_of(old, kept))
            case SetAttribute(module, attribute, _, new):
                owner = model.get_submodule(module)
                setattr(owner, attribute, list(new) if isinstance(getattr(owner, attribute), list) else new)  # type: ignore[arg-type]
            case RemoveBranch():
                _remove(model, edit, plan.tensors)
            case RewriteCode(path):
                model.get_submodule(path).__class__ = classes[path]
            case Retrace(path):
                forwards[path].install(model.get_submodule(path))
    unfuse(model, {*forwards, *classes})
    tensors = tensors_of(model)
    for name, value in plan.tensors.items():
        old = _lookup(tensors, name, "tensor")
        if old.shape != value.shape:
            raise SurgeryError(
                f"the plan gives {name} the shape {tuple(value.shape)}, "
                f"but after its edits the tensor has the shape {tuple(old.shape)}"
            )
        with torch.no_grad():
            old.copy_(value)
    for name, pattern in plan.patterns.items():
        shape = tuple(_lookup(tensors, name, "parameter").shape)
        if shape != pattern.partition.shape:
            raise SurgeryError(
                f"{OTHER_MODEL}: its pattern of {name} is for the shape {pattern.partition.shape}, not {shape}"
            )
        if name in plan.tensors and not pattern.obeyed(plan.tensors[name]):
            raise SurgeryError(f"the plan's values of {name} do not obey its own pattern of blocks")
    return model


def _forwards(model: nn.Module, plan: Plan) -> dict[str, Traced]:
    """Return the new forward of every module whose code repeats sizes, from an export of the dense model."""
    edits = {edit.module: edit for edit in plan.edits if isinstance(edit, Retrace)}
    if not edits:
        return {}
    device = next((t.device for t in tensors_of(model).values()), torch.device("cpu"))
    args, kwargs = rebuild(plan.example, device)
    failed: SurgeryError | None = None
    try:
        for program in exports(model, args, kwargs, tuple(edits)):
            try:
                return {path: _forward(model, program, edit, device) for path, edit in edits.items()}
            except SurgeryError as error:
                failed = error
    except TraceError as error:
        raise SurgeryError(f"{OTHER_MODEL}: {error}") from error
    assert failed is not None
    raise failed


def _forward(model: nn.Module, program: Program, edit: Retrace, device: torch.device) -> Traced:
    region = find_region(program, edit.module)
    if region.digest != edit.digest:
        raise SurgeryError(
            f"{OTHER_MODEL}, or with another version of torch or of the model's library: "
            f"{edit.module or type(model).__name__} makes other calls than when the plan was made"
        )
    return retraced(region, edit.sizes, device)


def _check(model: nn.Module, plan: Plan) -> None:
    """Refuse a model that the plan does not fit, with the first entry that differs."""
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
                _lookup(modules, path, "module")
            case SetAttribute():
                _check_attribute(edit, _lookup(modules, edit.module, "module"))
            case RemoveBranch():
                for path in edit.paths:
                    _lookup(modules, path, "module")
                for name in (f"{path}.value" for path in edit.constants):
                    if name not in plan.tensors:
                        raise SurgeryError(f"the plan removes a branch but has no tensor {name!r} for it")
    if found != plan.made_for:
        raise SurgeryError(
            f"{OTHER_MODEL}: both are a {found.model}, but the names or shapes of their tensors differ. "
            "Make the model with the same options as when the plan was made"
        )


def _check_slice(
    edit: SliceTensor, tensors: Mapping[str, Tensor], tied: Mapping[str, tuple[str, ...]]
) -> None:
    for name in edit.names:
        tensor = _lookup(tensors, name, "parameter or buffer")
        if tensor.ndim <= edit.dim or tensor.shape[edit.dim] != edit.size:
            raise SurgeryError(
                f"{OTHER_MODEL}: it expects size {edit.size} in dimension {edit.dim} of {name}, "
                f"which has the shape {tuple(tensor.shape)}"
            )
        if set(tied[name]) != set(edit.names):
            raise SurgeryError(
                f"{OTHER_MODEL}: there {', '.join(edit.names)} are one tensor, here {', '.join(tied[name])}"
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


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _put(model: nn.Module, names: tuple[str, ...], value: Tensor) -> None:
    """Put one tensor under all names of a parameter or buffer; a parameter stays one."""
    parameters: dict[int, nn.Parameter] = {}
    for name in names:
        owner, leaf = _owner(model, name)
        old = owner._parameters.get(leaf)
        if old is None:
            owner._buffers[leaf] = value
        else:
            fresh = nn.Parameter(value, requires_grad=old.requires_grad)
            owner._parameters[leaf] = parameters.setdefault(id(old), fresh)


def _in_layout_of(like: Tensor, value: Tensor) -> Tensor:
    if not like.is_contiguous():
        for layout, ndim in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
            if like.ndim == ndim and like.is_contiguous(memory_format=layout):
                return value.contiguous(memory_format=layout)
    return value.contiguous()


def _remove(model: nn.Module, edit: RemoveBranch, tensors: Mapping[str, Tensor]) -> None:
    for path in edit.constants:
        layer = model.get_submodule(path)
        value = tensors[f"{path}.value"].detach()
        like = next(layer.parameters(), value)
        constant = Constant(
            value.to(like.device, like.dtype, copy=True),
            output_shape(layer, path) if edit.written_out else None,
            trainable=any(p.requires_grad for p in layer.parameters()),
        )
        _replace(model, path, constant)
    for path in edit.removed:
        _replace(model, path, Removed(output_shape(model.get_submodule(path), path)))
    for path in edit.skipped:
        _replace(model, path, nn.Identity())


def _replace(model: nn.Module, path: str, new: nn.Module) -> None:
    owner, leaf = _owner(model, path)
    old = model.get_submodule(path)
    owner._modules[leaf] = new.train(old.training)


def _lookup(known: Mapping[str, T], name: str, what: str) -> T:
    if name not in known:
        raise SurgeryError(f"{OTHER_MODEL}: this one has no {what} {name!r}.{did_you_mean(name, known)}")
    return known[name]
